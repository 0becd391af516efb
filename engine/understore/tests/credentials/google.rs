//! Google's: service accounts, application default credentials, the metadata server, HMAC keys, tokens; before the stand-in
//! for Google Cloud Storage.

use std::sync::Arc;

use citius_understore::{
    MountSpec,
    testing::servers::{Dialect, Gate, Internet, Pass, ServiceAccount, StandIn},
};
use http::{Request, Response};

use crate::{
    desk::{Desk, LIFE_S, has, header, line, said},
    logged::Log,
    login::{is_refused, use_store},
};

/// Where users' refresh tokens are taken, and the metadata server.
fn answer(desk: &Desk, asked: &Request<String>) -> Response<String> {
    let token = || {
        let token = serde_json::json!({
            "access_token": desk.give_token(),
            "expires_in": LIFE_S,
            "token_type": "Bearer",
        });
        said(200, token.to_string())
    };
    match line(asked).as_str() {
        "POST https://accounts.google.com/o/oauth2/token" => {
            let asks = [("grant_type", "refresh_token"), ("client_id", "client"), ("client_secret", "hidden-client")];
            let is_known = ["hidden-refresh-1", "hidden-refresh-2"]
                .into_iter()
                .find(|known| has(asked.body(), &[("refresh_token", *known)]));
            let is_revoked = is_known == Some("hidden-refresh-1") && desk.folder().join("revoked").exists();
            if has(asked.body(), &asks) && is_known.is_some() && !is_revoked {
                return token();
            }
            said(400, r#"{"error": "invalid_grant", "error_description": "Token has been expired or revoked."}"#)
        }
        "GET http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
            if header(asked, "metadata-flavor") == "Google" =>
        {
            token()
        }
        _ => said(404, ""),
    }
}

/// The file of `gcloud auth application-default login`.
fn of_user(refresh_token: &str) -> String {
    serde_json::json!({
        "type": "authorized_user",
        "client_id": "client",
        "client_secret": "hidden-client",
        "refresh_token": refresh_token,
    })
    .to_string()
}

#[tokio::test]
async fn google() {
    let log = Log::of_process();
    let server = StandIn::start(Dialect::Gcs).await.unwrap();
    let desk = Desk::new("gcs", Gate::before_stand_in(&server).unwrap());
    let answering = Arc::clone(&desk);
    let internet = Internet::start(move |asked| answer(&answering, asked)).unwrap();
    let mount = server.keyless("").option("google_base_url", desk.gate.endpoint()).option("retries_max", "0");
    let mount = internet.leads(mount);
    let lines = accounts(&desk, &mount).await;
    default_credentials(&desk, &mount).await;

    desk.is_let_in("token", &mount.option("google_bearer_token", "hidden-t"), Pass::token("hidden-t")).await;
    // Its signatures are the stand-in's to check.
    use_store(&server.mount("HMAC-key")).await;
    desk.known("HMAC key", "once");
    let text = log.text();
    assert!(!text.is_empty() && !text.contains("hidden"), "{text}");
    assert!(!lines.iter().any(|line| text.contains(line)), "a private key is in {text}");
    desk.keep(&format!("stand-in before SeaweedFS {}", server.version()));
    server.stop().unwrap();
}

/// What must be in no log of the private keys.
async fn accounts(desk: &Desk, mount: &MountSpec) -> Vec<String> {
    let [first, second, third] = [(); 3].map(|()| ServiceAccount::fresh().unwrap());
    let kept = || [(first.key_file(), Pass::account(&first)), (second.key_file(), Pass::account(&second))];
    let file = desk.file("account.json", "");
    let by_file = mount.clone().option("google_service_account", &file);
    desk.is_let_in_anew("service account", &by_file, "account.json", kept()).await;
    let by_text = mount.clone().option("google_service_account_key", third.key_file());
    desk.is_let_in("service account as text", &by_text, Pass::account(&third)).await;
    let by_default = mount.clone().option("google_application_credentials", &file);
    let kind = "application default credentials of a service account";
    desk.is_let_in_anew(kind, &by_default, "account.json", kept()).await;
    for variable in ["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_APPLICATION_CREDENTIALS"] {
        desk.is_let_in_alone(variable, mount, &[(variable, file.as_str())], Pass::account(&second));
    }

    // A key that the service does not know any more is refused with a word on what to change, and not shown.
    desk.gate.close();
    let store = citius_understore::open(&by_text).unwrap();
    let error = store.check().await.unwrap_err();
    let text = format!("{by_text:?} {store:?} {error} {error:?}");
    assert!(matches!(error, citius_understore::Error::WrongKeys { .. }), "{text}");
    assert!(text.contains("google_service_account") && !text.contains(third.secret_line()), "{text}");
    [first, second, third].iter().map(|account| account.secret_line().to_owned()).collect()
}

async fn default_credentials(desk: &Desk, mount: &MountSpec) {
    let file = desk.file("user.json", &of_user("hidden-refresh-1"));
    let user = mount.clone().option("google_application_credentials", &file);
    desk.logs_in("application default credentials", &user).await;
    desk.logs_in_alone(
        "GOOGLE_APPLICATION_CREDENTIALS of a user",
        mount,
        &[("GOOGLE_APPLICATION_CREDENTIALS", file.as_str())],
    );
    desk.file(".config/gcloud/application_default_credentials.json", &of_user("hidden-refresh-1"));
    let home = desk.folder().to_str().unwrap();
    desk.logs_in_alone("application default credentials of gcloud", mount, &[("HOME", home)]);
    let nowhere = desk.folder().join("nobody");
    desk.logs_in_alone("metadata server", mount, &[("HOME", nowhere.to_str().unwrap())]);

    // The user's token is revoked, and the file has another: the next login reads it.
    let store = citius_understore::open(&user).unwrap();
    store.check().await.unwrap();
    desk.file("revoked", "");
    desk.file("user.json", &of_user("hidden-refresh-2"));
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    crate::login::write_and_read(&*store, 1).await;
    desk.known("application default credentials replaced", "and again after their file was replaced");

    desk.file("user.json", &of_user("hidden-refresh-3"));
    is_refused(&user, &["invalid_grant", "google_application_credentials"]).await;
}

//! Azure's: keys and signatures of an account, service principals, workload and managed identities, `az`, tokens; before
//! Azurite.

use std::{os::unix::fs::PermissionsExt, sync::Arc};

use chrono::{TimeDelta, Utc};
use citius_understore::{
    MountSpec,
    testing::servers::{Azurite, Gate, Internet, Pass},
};
use http::{Request, Response};

use crate::{
    desk::{Desk, LIFE_S, field, has, header, line, said},
    logged::Log,
    login::{is_refused, use_store},
    sas::account_sas,
};

const APP_SERVICE: &str = "http://169.254.129.3:8081/msi/token";

/// Entra ID, the metadata server, and what App Service has beside a program.
fn answer(desk: &Desk, asked: &Request<String>) -> Response<String> {
    match line(asked).as_str() {
        "POST https://login.microsoftonline.com/tenant/oauth2/v2.0/token" => of_entra(desk, asked.body()),
        "GET http://169.254.169.254/metadata/identity/oauth2/token" if header(asked, "metadata") == "true" => {
            of_machine(desk, asked)
        }
        line if line == format!("GET {APP_SERVICE}") && header(asked, "x-identity-header") == "hidden-header" => {
            of_machine(desk, asked)
        }
        _ => said(404, ""),
    }
}

fn of_entra(desk: &Desk, form: &str) -> Response<String> {
    let asks = [
        ("client_id", "client"),
        ("grant_type", "client_credentials"),
        ("scope", "https://storage.azure.com/.default"),
    ];
    let jwt = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let is_principal = has(form, &[("client_secret", "hidden-secret")]);
    let is_workload = has(form, &[("client_assertion_type", jwt)]) && desk.is_proof(&field(form, "client_assertion"));
    if !has(form, &asks) || !(is_principal || is_workload) {
        return said(
            401,
            r#"{"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."}"#,
        );
    }
    let token = serde_json::json!({
        "token_type": "Bearer",
        "expires_in": LIFE_S,
        "ext_expires_in": LIFE_S,
        "access_token": desk.give_token(),
    });
    said(200, token.to_string())
}

fn of_machine(desk: &Desk, asked: &Request<String>) -> Response<String> {
    let query = asked.uri().query().unwrap_or_default();
    let client = field(query, "client_id");
    if !has(query, &[("resource", "https://storage.azure.com")]) || !["", "assigned"].contains(&client.as_str()) {
        return said(400, r#"{"error": "invalid_request", "error_description": "Identity not found"}"#);
    }
    let token = serde_json::json!({
        "access_token": desk.give_token(),
        "expires_on": (Utc::now().timestamp() + LIFE_S).to_string(),
        "resource": "https://storage.azure.com",
        "token_type": "Bearer",
    });
    said(200, token.to_string())
}

#[tokio::test]
async fn azure() {
    let log = Log::of_process();
    let server = Azurite::start().await.unwrap();
    let desk = Desk::new("azure", Gate::before_azurite(&server).unwrap());
    let answering = Arc::clone(&desk);
    let internet = Internet::start(move |asked| answer(&answering, asked)).unwrap();
    let mount = MountSpec::new(format!("az://{}", server.container()))
        .option("azure_storage_account_name", server.account())
        .option("azure_storage_endpoint", format!("{}/{}", desk.gate.endpoint(), server.account()))
        .option("azure_allow_http", "true")
        .option("retries_max", "0");
    let mount = internet.leads(mount);

    use_store(&server.mount("key")).await;
    desk.known("account key", "once");
    let mut sas = server.mount("sas");
    sas.options.remove("azure_storage_account_key");
    let token = account_sas(server.account(), server.key(), "rwdlac", -1, 1);
    use_store(&sas.option("azure_storage_sas_key", &token)).await;
    desk.known("SAS", "once");
    desk.is_let_in("token", &mount.clone().option("azure_storage_token", "hidden-t"), Pass::token("hidden-t")).await;
    identities(&desk, &mount).await;
    of_az(&desk, &mount);
    let text = log.text();
    let signature = token.rsplit_once("sig=").unwrap().1;
    assert!(!text.is_empty() && !text.contains("hidden"), "{text}");
    assert!(!text.contains(server.key()) && !text.contains(signature), "{text}");
    desk.keep(&format!("Azurite {}", server.version()));
    server.stop().unwrap();
}

async fn identities(desk: &Desk, mount: &MountSpec) {
    let client = mount.clone().option("azure_storage_client_id", "client").option("azure_storage_tenant_id", "tenant");
    let principal = |secret: &str| client.clone().option("azure_storage_client_secret", secret);
    desk.logs_in("service principal", &principal("hidden-secret")).await;
    let variables =
        [("AZURE_CLIENT_ID", "client"), ("AZURE_TENANT_ID", "tenant"), ("AZURE_CLIENT_SECRET", "hidden-secret")];
    desk.logs_in_alone("AZURE_CLIENT_SECRET", mount, &variables);

    let proof = desk.proof_file();
    let proof = proof.to_str().unwrap();
    let workload = |file: &str| client.clone().option("azure_federated_token_file", file);
    desk.logs_in("workload identity", &workload(proof)).await;
    let variables = [
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_FEDERATED_TOKEN_FILE", proof),
        ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/"),
    ];
    desk.logs_in_alone("AZURE_FEDERATED_TOKEN_FILE", mount, &variables);

    desk.logs_in("managed identity", mount).await;
    let assigned = |client: &str| mount.clone().option("azure_storage_client_id", client);
    desk.logs_in("managed identity that a user assigned", &assigned("assigned")).await;
    let variables = [("IDENTITY_ENDPOINT", APP_SERVICE), ("IDENTITY_HEADER", "hidden-header")];
    desk.logs_in_alone("IDENTITY_ENDPOINT", mount, &variables);

    is_refused(&principal("hidden-wrong"), &["invalid_client", "azure_storage_client_secret"]).await;
    let wrong = desk.file("wrong", "hidden-wrong");
    is_refused(&workload(&wrong), &["invalid_client", "azure_federated_token_file"]).await;
    is_refused(&workload("/no/such/token"), &["azure_federated_token_file"]).await;
    is_refused(&assigned("unknown"), &["Identity not found", "managed identity"]).await;
}

/// A program in the place of `az`, which gives another token each time.
fn of_az(desk: &Desk, mount: &MountSpec) {
    const TOKENS: usize = 200;
    let until = (Utc::now() + TimeDelta::seconds(LIFE_S)).format("%Y-%m-%d %H:%M:%S.000000");
    let count = desk.file("count", "0\n");
    let program = format!(
        "#!/bin/sh\n\
         test \"$1 $2\" = 'account get-access-token' || exit 1\n\
         read number < {count}\n\
         number=$((number + 1))\n\
         echo $number > {count}\n\
         echo \"{{\\\"accessToken\\\": \\\"hidden-az-$number\\\", \\\"expiresOn\\\": \\\"{until}\\\", \\\"tokenType\\\": \\\"Bearer\\\"}}\"\n"
    );
    let file = desk.file("bin/az", &program);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = desk.folder().join("bin");
    desk.gate.close();
    (1..=TOKENS).for_each(|number| desk.gate.admit(Pass::token(&format!("hidden-az-{number}"))));
    let cli = mount.clone().option("azure_use_azure_cli", "true");
    crate::login::use_store_alone(&cli, &[("PATH", folder.to_str().unwrap()), ("TZ", "UTC")]);
    let used = desk.gate.used().len();
    assert!(used >= 2, "{used} tokens were used");
    desk.known("az login", &format!("{used} times"));
}

//! Alibaba's: keys, STS tokens, RRSA, RAM roles of machines; before the stand-in for OSS.

use std::sync::Arc;

use citius_understore::testing::servers::{Dialect, Gate, Internet, Pass, StandIn};
use http::{Request, Response};

use crate::{
    desk::{Desk, Keys, field, has, header, line, said},
    logged::Log,
    login::is_refused,
};

const ROLE: &str = "acs:ram::1:role/storage";
const PROVIDER: &str = "acs:ram::1:oidc-provider/pods";

/// STS, and the metadata server in its hardened mode.
fn answer(desk: &Desk, asked: &Request<String>) -> Response<String> {
    let has_word = header(asked, "x-aliyun-ecs-metadata-token") == "hidden-word";
    let roles = "GET http://100.100.100.200/latest/meta-data/ram/security-credentials/";
    match line(asked).as_str() {
        "PUT http://100.100.100.200/latest/api/token" => said(200, "hidden-word"),
        "POST https://sts.aliyuncs.com/" => {
            let asks = [("Action", "AssumeRoleWithOIDC"), ("RoleArn", ROLE), ("OIDCProviderArn", PROVIDER)];
            let shown = field(asked.body(), "OIDCToken");
            if has(asked.body(), &asks) && desk.is_proof(&shown) {
                return said(200, format!(r#"{{"RequestId": "r", "Credentials": {}}}"#, json(&desk.give_keys())));
            }
            let message = format!("This token is invalid: {shown}");
            said(400, format!(r#"{{"Code": "AuthenticationFail.OIDCToken.Invalid", "Message": "{message}"}}"#))
        }
        line => match line.strip_prefix(roles) {
            Some("") if has_word => said(200, "storage-role"),
            Some("storage-role") if has_word => said(200, json(&desk.give_keys())),
            _ => said(404, ""),
        },
    }
}

fn json(keys: &Keys) -> String {
    keys.json("AccessKeySecret", "SecurityToken")
}

#[tokio::test]
async fn alibaba() {
    let log = Log::of_process();
    let server = StandIn::start(Dialect::Oss).await.unwrap();
    let desk = Desk::new("oss", Gate::before_stand_in(&server).unwrap());
    let answering = Arc::clone(&desk);
    let internet = Internet::start(move |asked| answer(&answering, asked)).unwrap();
    let mount =
        internet.leads(server.keyless("")).option("oss_endpoint", desk.gate.endpoint()).option("retries_max", "0");

    let keys = mount.clone().option("oss_access_key_id", "hidden-id").option("oss_access_key_secret", "hidden-secret");
    let pass = |token| Pass::keys("hidden-id", "hidden-secret", token);
    desk.is_let_in("keys", &keys, pass(None)).await;
    desk.is_let_in("STS token", &keys.option("oss_security_token", "hidden-token"), pass(Some("hidden-token"))).await;
    let variables = [
        ("ALIBABA_CLOUD_ACCESS_KEY_ID", "hidden-id"),
        ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "hidden-secret"),
        ("ALIBABA_CLOUD_SECURITY_TOKEN", "hidden-token"),
    ];
    desk.is_let_in_alone("ALIBABA_CLOUD_*", &mount, &variables, pass(Some("hidden-token")));

    let proof = desk.proof_file();
    let proof = proof.to_str().unwrap();
    let pod = |file: &str| {
        let pod = mount.clone().option("oss_role_arn", ROLE).option("oss_oidc_provider_arn", PROVIDER);
        pod.option("oss_oidc_token_file", file)
    };
    desk.logs_in("RRSA", &pod(proof)).await;
    let variables = [
        ("ALIBABA_CLOUD_ROLE_ARN", ROLE),
        ("ALIBABA_CLOUD_OIDC_PROVIDER_ARN", PROVIDER),
        ("ALIBABA_CLOUD_OIDC_TOKEN_FILE", proof),
    ];
    desk.logs_in_alone("ALIBABA_CLOUD_OIDC_TOKEN_FILE", &mount, &variables);
    desk.logs_in("RAM role of a machine", &mount).await;
    desk.logs_in("RAM role by name", &mount.clone().option("oss_ecs_role", "storage-role")).await;
    desk.logs_in_alone("ALIBABA_CLOUD_ECS_METADATA", &mount, &[("ALIBABA_CLOUD_ECS_METADATA", "storage-role")]);

    let wrong = desk.file("wrong", "hidden-wrong");
    let names = ["https://sts.aliyuncs.com", "OIDCToken.Invalid", "oss_role_arn", "oss_oidc_token_file"];
    is_refused(&pod(&wrong), &names).await;
    is_refused(&pod("/no/such/token"), &["/no/such/token", "oss_oidc_token_file"]).await;
    let nobody = mount.option("oss_ecs_role", "nobody");
    is_refused(&nobody, &["http://100.100.100.200", "404", "oss_access_key_id"]).await;
    assert!(!log.text().is_empty() && !log.text().contains("hidden"), "{}", log.text());
    desk.keep(&format!("stand-in before SeaweedFS {}", server.version()));
    server.stop().unwrap();
}

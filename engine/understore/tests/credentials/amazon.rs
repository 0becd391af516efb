//! Amazon's: keys, profiles, web identities, roles of containers and machines; before SeaweedFS.

use std::sync::Arc;

use citius_understore::{
    MountSpec,
    testing::servers::{Gate, Internet, Pass, SeaweedFs},
};
use http::{Request, Response};

use crate::{
    desk::{Desk, Keys, field, has, header, line, said},
    logged::Log,
    login::{is_away, is_half, is_refused},
};

const ROLE: &str = "arn:aws:iam::123456789012:role/storage";
const FIXED: &str = "hidden-fixed";
/// A token that is shown when nobody is there.
const AT_NIGHT: &str = "hidden-at-night";

/// STS, what ECS and EKS have beside a container, and the metadata server.
fn answer(desk: &Desk, asked: &Request<String>) -> Response<String> {
    let roles = "http://169.254.169.254/latest/meta-data/iam/security-credentials/";
    let line = line(asked);
    let has_session = header(asked, "x-aws-ec2-metadata-token") == "hidden-session";
    let Some(line) = line.strip_prefix("GET ") else { return post(desk, asked, &line) };
    if line == "http://169.254.170.2/v2/credentials/uuid" {
        return said(200, json(&desk.give_keys()));
    }
    if line == "http://169.254.170.23/v1/credentials" {
        let shown = header(asked, "authorization");
        return if desk.is_proof(shown) || shown == FIXED {
            said(200, json(&desk.give_keys()))
        } else {
            said(401, format!(r#"{{"code": "InvalidToken", "message": "{shown} is not known"}}"#))
        };
    }
    match line.strip_prefix(roles) {
        Some(_) if !has_session => said(401, ""),
        Some("") => said(200, "storage-role"),
        Some("storage-role") => said(200, json(&desk.give_keys())),
        _ => said(404, ""),
    }
}

fn post(desk: &Desk, asked: &Request<String>, line: &str) -> Response<String> {
    match line {
        "PUT http://169.254.169.254/latest/api/token" => {
            let is_wished = header(asked, "x-aws-ec2-metadata-token-ttl-seconds").parse::<u32>().is_ok();
            if is_wished { said(200, "hidden-session") } else { said(400, "") }
        }
        "POST https://sts.us-east-1.amazonaws.com/" => {
            let asks = [("Action", "AssumeRoleWithWebIdentity"), ("Version", "2011-06-15"), ("RoleArn", ROLE)];
            let shown = field(asked.body(), "WebIdentityToken");
            if shown == AT_NIGHT {
                return said(503, "");
            }
            if has(asked.body(), &asks) && desk.is_proof(&shown) && !field(asked.body(), "RoleSessionName").is_empty() {
                return said(200, assumed(&desk.give_keys()));
            }
            let error =
                format!("<Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>{shown} is wrong</Message>");
            said(400, format!("<ErrorResponse><Error>{error}</Error><RequestId>r</RequestId></ErrorResponse>"))
        }
        _ => said(404, ""),
    }
}

fn json(keys: &Keys) -> String {
    keys.json("SecretAccessKey", "Token")
}

fn assumed(keys: &Keys) -> String {
    let Keys { id, secret, token, until } = keys;
    format!(
        r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
             <AssumeRoleWithWebIdentityResult>
               <SubjectFromWebIdentityToken>system:serviceaccount:default:app</SubjectFromWebIdentityToken>
               <Credentials>
                 <SessionToken>{token}</SessionToken>
                 <SecretAccessKey>{secret}</SecretAccessKey>
                 <Expiration>{until}</Expiration>
                 <AccessKeyId>{id}</AccessKeyId>
               </Credentials>
             </AssumeRoleWithWebIdentityResult>
             <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>
           </AssumeRoleWithWebIdentityResponse>"#
    )
}

fn profile(number: u8) -> (String, Pass) {
    let (id, secret, token) = (format!("hidden-{number}"), format!("hidden-s{number}"), format!("hidden-t{number}"));
    let text =
        format!("[work]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\naws_session_token = {token}\n");
    (text, Pass::keys(&id, &secret, Some(&token)))
}

#[tokio::test]
async fn amazon() {
    let log = Log::of_process();
    let server = SeaweedFs::start().await.unwrap();
    let desk = Desk::new("s3", Gate::before_s3(server.s3()).unwrap());
    let answering = Arc::clone(&desk);
    let internet = Internet::start(move |asked| answer(&answering, asked)).unwrap();
    let mount = MountSpec::new(format!("s3://{}", server.s3().name()))
        .option("aws_endpoint", desk.gate.endpoint())
        .option("aws_allow_http", "true")
        .option("retries_max", "0");
    let mount = internet.leads(mount);
    keys(&desk, &mount).await;
    roles(&desk, &mount).await;
    roles_by_environment(&desk, &mount);
    refusals(&desk, &mount).await;
    assert!(!log.text().is_empty() && !log.text().contains("hidden"), "{}", log.text());
    desk.keep(&format!("SeaweedFS {}", server.version()));
    server.stop().unwrap();
}

async fn keys(desk: &Desk, mount: &MountSpec) {
    let keys = mount.clone().option("aws_access_key_id", "hidden-id").option("aws_secret_access_key", "hidden-secret");
    let pass = |token| Pass::keys("hidden-id", "hidden-secret", token);
    desk.is_let_in("options", &keys, pass(None)).await;
    let session = keys.option("aws_session_token", "hidden-token");
    desk.is_let_in("options with a session", &session, pass(Some("hidden-token"))).await;
    let variables = [
        ("AWS_ACCESS_KEY_ID", "hidden-id"),
        ("AWS_SECRET_ACCESS_KEY", "hidden-secret"),
        ("AWS_SESSION_TOKEN", "hidden-token"),
    ];
    desk.is_let_in_alone("AWS_*", mount, &variables, pass(Some("hidden-token")));

    let (text, pass) = profile(0);
    let file = desk.file("credentials", &text);
    let config = desk.file("config", "");
    let variables =
        [("AWS_PROFILE", "work"), ("AWS_SHARED_CREDENTIALS_FILE", file.as_str()), ("AWS_CONFIG_FILE", config.as_str())];
    desk.is_let_in_alone("AWS_PROFILE", mount, &variables, pass);
    let named = mount
        .clone()
        .option("aws_profile", "work")
        .option("aws_shared_credentials_file", &file)
        .option("aws_config_file", &config);
    desk.is_let_in_anew("profiles", &named, "credentials", [profile(1), profile(2)]).await;
}

async fn roles(desk: &Desk, mount: &MountSpec) {
    let proof = desk.proof_file();
    let proof = proof.to_str().unwrap();
    let pod = mount.clone().option("aws_web_identity_token_file", proof).option("aws_role_arn", ROLE);
    desk.logs_in("web identity", &pod).await;
    let config = format!("[profile pod]\nrole_arn = {ROLE}\nweb_identity_token_file = {proof}\n");
    let profile = mount
        .clone()
        .option("aws_profile", "pod")
        .option("aws_config_file", desk.file("pod-config", &config))
        .option("aws_shared_credentials_file", desk.file("no-credentials", ""));
    desk.logs_in("web identity of a profile", &profile).await;
    let ecs = mount.clone().option("aws_container_credentials_relative_uri", "/v2/credentials/uuid");
    desk.logs_in("container role", &ecs).await;
    let eks = mount
        .clone()
        .option("aws_container_credentials_full_uri", "http://169.254.170.23/v1/credentials")
        .option("aws_container_authorization_token_file", proof);
    desk.logs_in("container role with a token", &eks).await;
}

fn roles_by_environment(desk: &Desk, mount: &MountSpec) {
    const FULL: (&str, &str) = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials");
    let proof = desk.proof_file();
    let proof = proof.to_str().unwrap();
    let variables = [("AWS_WEB_IDENTITY_TOKEN_FILE", proof), ("AWS_ROLE_ARN", ROLE)];
    desk.logs_in_alone("AWS_WEB_IDENTITY_TOKEN_FILE", mount, &variables);
    let relative = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/uuid")];
    desk.logs_in_alone("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", mount, &relative);
    let variables = [FULL, ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", proof)];
    desk.logs_in_alone("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", mount, &variables);
    let variables = [FULL, ("AWS_CONTAINER_AUTHORIZATION_TOKEN", FIXED)];
    desk.logs_in_alone("AWS_CONTAINER_AUTHORIZATION_TOKEN", mount, &variables);
    // Somebody's own files would be found before the machine is asked.
    let home = desk.folder().to_str().unwrap();
    desk.logs_in_alone("instance role", mount, &[("HOME", home)]);
}

async fn refusals(desk: &Desk, mount: &MountSpec) {
    let wrong = desk.file("wrong", "hidden-wrong");
    let pod = |file: &str| mount.clone().option("aws_web_identity_token_file", file).option("aws_role_arn", ROLE);
    let names =
        ["https://sts.us-east-1.amazonaws.com", "InvalidIdentityToken", "aws_role_arn", "aws_web_identity_token_file"];
    is_refused(&pod(&wrong), &names).await;
    is_refused(&pod("/no/such/token"), &["/no/such/token", "aws_web_identity_token_file"]).await;
    let night = desk.file("night", AT_NIGHT);
    is_away(&pod(&night), &["https://sts.us-east-1.amazonaws.com", "503", "gives the keys"]).await;
    let empty = desk.file("empty", "\n");
    is_refused(&pod(&empty), &["empty", "aws_web_identity_token_file"]).await;
    is_half(&mount.clone().option("aws_role_arn", ROLE), &["aws_role_arn", "aws_web_identity_token_file"]);
    let container = mount.clone().option("aws_container_authorization_token_file", &wrong);
    is_half(&container, &["aws_container_authorization_token_file", "aws_container_credentials_full_uri"]);
    let full = "http://169.254.170.23/v1/credentials";
    let eks = mount.clone().option("aws_container_credentials_full_uri", full);
    let names = ["http://169.254.170.23", "InvalidToken", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"];
    is_refused(&eks.option("aws_container_authorization_token_file", &wrong), &names).await;
    let none = desk.file("none", "");
    let machine = mount.clone().option("aws_metadata_endpoint", "http://169.254.169.250");
    let machine = machine.option("aws_shared_credentials_file", &none).option("aws_config_file", &none);
    is_refused(&machine, &["http://169.254.169.250", "404", "give the machine a role", "aws_access_key_id"]).await;
}

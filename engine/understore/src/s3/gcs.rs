//! `gs://`: from URI and options to a connected store.
//!
//! Options have `object_store`'s names (`google_service_account`, `google_base_url`, …). Tokens come from its sources: the
//! key file of a service account, application default credentials, the metadata server of a machine. Besides there are
//! HMAC keys, as the service has for programs that speak S3. What the options leave open is taken from the environment
//! (`GOOGLE_*`). Nothing is sent here: [`crate::UnderStore::check`] does.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use object_store::{
    StaticCredentialProvider,
    client::ClientConfigKey,
    gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey as Key},
};

use super::{
    S3,
    client::Client,
    connect::{Mount, environment, is_true},
    dialect::GCS,
    keys::{Bearer, Provided, V4Signer},
    v4::{GOOG4, Keys},
};
use crate::{
    Advice, Error, MountSpec, Result, Secret, TrafficSettings,
    alias::{Alias, Given},
    object::Objects,
    redact,
    web::{CA_FILE, Signer, Web, chain},
};

/// What users most often set; the advice for an unknown option names the nearest of these.
const USUAL: &[&str] = &[
    "google_service_account",
    "google_service_account_key",
    "google_application_credentials",
    "google_bearer_token",
    HMAC_ID,
    HMAC_SECRET,
    "google_base_url",
    USER_PROJECT,
    "google_skip_signature",
    "google_allow_http",
    CA_FILE,
    "proxy_url",
];
/// Options of ours.
const HMAC_ID: &str = "google_hmac_access_id";
const HMAC_SECRET: &str = "google_hmac_secret";
const USER_PROJECT: &str = "google_user_project";

/// Alluxio's names, and those of Google's connector for Hadoop.
pub(crate) const ALIASES: &[Alias] = &[
    Alias::same("fs.gcs.accessKeyId", HMAC_ID),
    Alias::same("fs.gcs.secretAccessKey", HMAC_SECRET),
    Alias::same("fs.gcs.credential.path", "google_application_credentials"),
    Alias::same("google.cloud.auth.service.account.json.keyfile", "google_service_account"),
    Alias::only("google.cloud.auth.service.account.enable", "true"),
    Alias::same("fs.gs.auth.service.account.json.keyfile", "google_service_account"),
    Alias::only("fs.gs.auth.service.account.enable", "true"),
];

/// The service.
const BASE_URL: &str = "https://storage.googleapis.com";
/// The region of signatures, whatever the bucket's.
const REGION: &str = "auto";

static ADVICE: Advice = Advice {
    bucket: "bucket",
    missing_bucket: "create it, or check its name and google_base_url",
    unreachable: "check the network and google_base_url",
    wrong_keys: "check google_service_account (or the keys that you gave instead) and that its account is not disabled",
    missing_keys: "set google_service_account to the key file of a service account, \
                   or google_application_credentials to that of gcloud, or google_skip_signature=true for a public bucket",
    wrong_region: "check google_base_url",
};

type Settings = HashMap<Key, Secret>;

/// Gives everything the names of our own.
pub(crate) fn translate(spec: &MountSpec) -> Result<MountSpec> {
    let same = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.parse::<Key>().map_or(name, |key| key.as_ref().to_owned())
    };
    Ok(Given::of(spec, same)?.translated(ALIASES)?.into_spec(spec))
}

/// Reads `gs://bucket[/prefix]` and its options.
pub(crate) fn open(uri: &str, options: &BTreeMap<String, Secret>) -> Result<Objects> {
    let mut mount = Mount::read(uri, options)?;
    let hmac = hmac_keys(&mut mount)?;
    let payer = mount.options.remove(USER_PROJECT).map(|project| project.expose().to_owned());
    let own: Settings = mount
        .options
        .iter()
        .map(|(name, value)| Ok((option_key(name, &mount)?, value.clone())))
        .collect::<Result<_>>()?;
    let settings: Settings = from_environment(&own, hmac.is_some()).into_iter().chain(own).collect();
    let is_set = |key: Key| settings.get(&key).is_some_and(|value| is_true(value.expose()));
    let endpoint = settings.get(&Key::BaseUrl).map_or(BASE_URL, Secret::expose).trim_end_matches('/').to_owned();
    let allow_http = is_set(Key::Client(ClientConfigKey::AllowHttp));
    mount.check_endpoint("google_base_url", &endpoint, allow_http, "google_allow_http")?;
    let skips = is_set(Key::SkipSignature);
    let mut builder = builder(&settings, &mount);
    if skips || hmac.is_some() {
        // So that no file is looked for that is not needed.
        let none = StaticCredentialProvider::new(GcpCredential { bearer: String::new() });
        builder = builder.with_credentials(Arc::new(none));
    }
    let built = builder.clone().build().map_err(|error| built_badly(&error, &settings, &mount))?;
    let (http, traffic) = mount.governor.last().expect("the builder connects before it returns");
    let signer: Option<Arc<dyn Signer>> = match hmac {
        _ if skips => None,
        Some(keys) => Some(Arc::new(V4Signer {
            source: Box::new(Arc::new(keys)),
            scheme: &GOOG4,
            region: REGION.to_owned(),
            root: String::new(),
            signs_content: true,
            endpoint: endpoint.clone(),
            advice: &ADVICE,
        })),
        None => {
            let make = move || Ok(Arc::clone(builder.clone().build()?.credentials()));
            let tokens = Provided::new(Arc::clone(built.credentials()), make);
            Some(Arc::new(Bearer { tokens, endpoint: endpoint.clone(), advice: &ADVICE }))
        }
    };
    let bucket_url = format!("{endpoint}/{}", mount.bucket);
    let web = Web::new(http, traffic.clone(), endpoint, &ADVICE, signer);
    let client = Client { web, dialect: &GCS, region: String::new(), bucket: mount.bucket, bucket_url, payer };
    Ok(Objects::new(redact(uri), mount.prefix, traffic, Box::new(S3::new(client, GCS.rules))))
}

/// Takes the HMAC keys from the options.
fn hmac_keys(mount: &mut Mount) -> Result<Option<Keys>> {
    let half = |mount: &Mount, missing| {
        Err(mount.invalid(missing, "it is not set, and its other half is; set both or neither"))
    };
    match (mount.options.remove(HMAC_ID), mount.options.remove(HMAC_SECRET)) {
        (Some(id), Some(secret)) => Ok(Some(Keys { id, secret, token: None })),
        (None, Some(_)) => half(mount, HMAC_ID),
        (Some(_), None) => half(mount, HMAC_SECRET),
        (None, None) => Ok(None),
    }
}

fn builder(settings: &Settings, mount: &Mount) -> GoogleCloudStorageBuilder {
    let builder = GoogleCloudStorageBuilder::new()
        .with_client_options(mount.client_options.clone())
        .with_retry(mount.retry.clone())
        .with_bucket_name(&mount.bucket)
        .with_http_connector(mount.governor.clone());
    settings.iter().fold(builder, |builder, (key, value)| builder.with_config(*key, value.expose()))
}

/// What the environment adds; keys and endpoint whole or not at all.
fn from_environment(settings: &Settings, has_keys: bool) -> Settings {
    let own_keys = has_keys || settings.keys().any(is_credential);
    let own_endpoint = settings.keys().any(is_endpoint);
    environment()
        .filter(|(name, _)| name.starts_with("google_"))
        .filter_map(|(name, value)| Some((name.parse().ok()?, value)))
        .filter(|(key, _)| *key != Key::Bucket)
        .filter(|(key, _)| !(own_keys && is_credential(key) || own_endpoint && is_endpoint(key)))
        .collect()
}

fn is_credential(key: &Key) -> bool {
    matches!(
        key,
        Key::ServiceAccount
            | Key::ServiceAccountKey
            | Key::ApplicationCredentials
            | Key::BearerToken
            | Key::SkipSignature
    )
}

fn is_endpoint(key: &Key) -> bool {
    matches!(key, Key::BaseUrl | Key::Client(ClientConfigKey::AllowHttp))
}

fn option_key(name: &str, mount: &Mount) -> Result<Key> {
    match name.parse() {
        Ok(Key::Bucket) => Err(mount.invalid(name, "the bucket is named in the URI; leave this option out")),
        Ok(key) => Ok(key),
        Err(_) => Err(TrafficSettings::unknown_option(name, USUAL, &mount.shown)),
    }
}

/// What the builder finds wrong, nearly always with the key of a service account. What it says of a key that was given
/// as text could quote it.
fn built_badly(error: &object_store::Error, settings: &Settings, mount: &Mount) -> Error {
    const ROW: [(Key, &str); 2] = [
        (Key::ServiceAccount, "google_service_account"),
        (Key::ApplicationCredentials, "google_application_credentials"),
    ];
    if settings.contains_key(&Key::ServiceAccountKey) {
        let reason = "it is not the JSON of a service account's key; give the file's whole text, or its path as \
                      google_service_account";
        return mount.invalid("google_service_account_key", reason);
    }
    let named = ROW.iter().find(|(key, _)| settings.contains_key(key)).map(|(_, name)| *name);
    mount.invalid(named.unwrap_or("one of the google_* options, or gcloud's own file"), chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::options;

    #[test]
    fn wrong_options_are_named_and_secrets_are_not() {
        let refused = |pairs: &[(&str, &str)]| {
            let error = open("gs://b", &options(pairs)).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hidden"), "{text}");
            (error, text)
        };
        let named = |pairs: &[(&str, &str)]| match refused(pairs) {
            (Error::InvalidOption { option, .. }, _) => option,
            (other, _) => panic!("{other}"),
        };
        let (error, text) = refused(&[("google_service_acount", "hidden-value")]);
        assert!(matches!(error, Error::UnknownOption { .. }) && text.contains("did you mean google_service_account?"));
        assert_eq!(named(&[("google_service_account_key", "\"hidden-value\"")]), "google_service_account_key");
        assert_eq!(named(&[("google_service_account", "/no/such/file")]), "google_service_account");
        assert_eq!(named(&[("google_application_credentials", "/no/such/file")]), "google_application_credentials");
        assert_eq!(named(&[(HMAC_ID, "GOOG1E")]), HMAC_SECRET);
        assert_eq!(named(&[(HMAC_SECRET, "hidden-value")]), HMAC_ID);
        assert_eq!(named(&[("google_bucket", "b")]), "google_bucket");
        let plain = [("google_base_url", "http://127.0.0.1:1"), ("google_skip_signature", "true")];
        assert!(refused(&plain).1.contains("google_allow_http=true"));
    }

    #[test]
    fn the_document_lists_every_option() {
        let aliases = ALIASES.iter().map(|alias| alias.name);
        crate::document::lists("Google Cloud Storage", USUAL.iter().copied().chain(aliases));
    }
}

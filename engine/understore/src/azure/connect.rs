//! From URI and options to a connected container, with a clear word for whatever is wrong with them.
//!
//! Options have `object_store`'s names (`azure_storage_account_key`, `azure_tenant_id`, …). What the options leave open is
//! taken from the environment (`AZURE_*`), as Azure's tools do. Nothing is sent here: [`crate::UnderStore::check`] does.
//!
//! | URI | account, container |
//! |---|---|
//! | `abfs[s]://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX`, `wasb[s]://CONTAINER@ACCOUNT.blob.core.windows.net/PREFIX` | both named; always asked by https |
//! | `az://CONTAINER/PREFIX`, `azure://…`, `abfs[s]://…` | the account is an option or in the environment |

use std::{collections::BTreeMap, sync::Arc};

use object_store::{
    RetryConfig,
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::ClientConfigKey,
};
use url::Url;

use super::{
    Azure, Digests,
    client::Client,
    sign::{Sas, SharedKey, Tokens},
};
use crate::{
    Advice, Error, Governor, Result, Secret, Traffic, TrafficSettings,
    object::{Objects, check_prefix},
    redact,
    s3::Provided,
    web::{CA_FILE, Signer, Web, chain, connections, trusting},
};

/// What users most often set; the advice for an unknown option names the nearest of these.
const USUAL: &[&str] = &[
    "azure_storage_account_name",
    "azure_storage_account_key",
    "azure_storage_sas_key",
    "azure_storage_token",
    "azure_storage_client_id",
    "azure_storage_client_secret",
    "azure_storage_tenant_id",
    "azure_federated_token_file",
    "azure_msi_endpoint",
    "azure_use_azure_cli",
    "azure_storage_endpoint",
    "azure_storage_use_emulator",
    "azure_skip_signature",
    "azure_allow_http",
    CA_FILE,
    "allow_invalid_certificates",
    "proxy_url",
];
static ADVICE: Advice = Advice {
    bucket: "container",
    missing_bucket: "create it, or check its name, azure_storage_account_name and azure_storage_endpoint",
    unreachable: "check the account's name, azure_storage_endpoint and the network",
    wrong_keys: "check azure_storage_account_key, azure_storage_sas_key or whose token it is",
    missing_keys: "set azure_storage_account_key or azure_storage_sas_key; or azure_storage_client_id and \
                   azure_storage_tenant_id with azure_storage_client_secret or azure_federated_token_file; or give the \
                   machine a managed identity; or set azure_skip_signature=true for a public container",
    wrong_region: "check azure_storage_endpoint",
};

const PUBLIC_HOST: &str = "blob.core.windows.net";
/// Account and key of the emulator that every Azure SDK knows.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const EMULATOR_URL: &str = "http://127.0.0.1:10000";
/// Variables of Azure's command line tool and of its hosts that do not have the option's name.
const OTHER_VARIABLES: [(&str, AzureConfigKey); 3] = [
    ("AZURE_STORAGE_ACCOUNT", AzureConfigKey::AccountName),
    ("AZURE_STORAGE_KEY", AzureConfigKey::AccessKey),
    ("IDENTITY_ENDPOINT", AzureConfigKey::MsiEndpoint),
];

type Settings = Vec<(AzureConfigKey, String)>;

/// Reads a URI and its options.
pub(crate) fn open(uri: &str, options: &BTreeMap<String, Secret>) -> Result<Objects> {
    let (azure, prefix) = connect(uri, options)?;
    let traffic = azure.client.web.traffic.clone();
    Ok(Objects::new(redact(uri), prefix, traffic, Box::new(azure)))
}

/// The container of a URI, and the prefix in it.
fn connect(uri: &str, options: &BTreeMap<String, Secret>) -> Result<(Azure, String)> {
    let shown = redact(uri);
    let place = Place::parse(uri, &shown)?;
    let (rules, options) = TrafficSettings::split(options, &shown)?;
    let invalid = |option: &str, reason: &str| Error::InvalidOption {
        uri: shown.clone(),
        option: option.to_owned(),
        reason: reason.to_owned(),
    };
    let mut client_options = connections(&rules);
    // Retries, too, are those of the mount's traffic.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let governor = Governor::new(Traffic::new(rules));
    let mut settings = Vec::new();
    for (name, value) in &options {
        if name.eq_ignore_ascii_case(CA_FILE) {
            client_options = trusting(client_options, value.expose()).map_err(|reason| invalid(CA_FILE, &reason))?;
        } else {
            settings.push((option_key(name, &shown)?, value.expose().to_owned()));
        }
    }
    let settings: Settings = environment(&settings, &place, std::env::vars_os()).into_iter().chain(settings).collect();
    // The last one counts.
    let setting = |key: AzureConfigKey| {
        settings
            .iter()
            .rev()
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty())
    };
    let is_set = |key: AzureConfigKey| setting(key).is_some_and(is_true);
    let is_emulator = is_set(AzureConfigKey::UseEmulator);
    let account = place
        .account
        .as_deref()
        .or_else(|| setting(AzureConfigKey::AccountName))
        .or_else(|| is_emulator.then_some(EMULATOR_ACCOUNT))
        .ok_or_else(|| invalid("azure_storage_account_name", "the URI names no account, so this option must"))?
        .to_owned();
    let endpoint = match (setting(AzureConfigKey::Endpoint), &place.host) {
        (Some(endpoint), _) => {
            check_endpoint(endpoint, is_set(AzureConfigKey::Client(ClientConfigKey::AllowHttp)), &shown)?;
            endpoint.trim_end_matches('/').to_owned()
        }
        _ if is_emulator => {
            let url = std::env::var("AZURITE_BLOB_STORAGE_URL").unwrap_or_else(|_| EMULATOR_URL.to_owned());
            format!("{}/{account}", url.trim_end_matches('/'))
        }
        (None, Some(host)) => format!("https://{account}.{host}"),
        (None, None) => format!("https://{account}.{PUBLIC_HOST}"),
    };
    let mut builder = MicrosoftAzureBuilder::new()
        .with_client_options(client_options)
        .with_retry(retry)
        .with_http_connector(governor.clone());
    for (key, value) in &settings {
        let value = match key {
            // Hosts give it with a slash, which would stand twice in its URLs.
            AzureConfigKey::AuthorityHost => value.trim_end_matches('/'),
            _ => value.trim(),
        };
        builder = builder.with_config(*key, value);
    }
    builder = builder.with_account(&account).with_container_name(&place.container).with_endpoint(endpoint.clone());
    if endpoint.starts_with("http://") {
        builder = builder.with_allow_http(true);
    }
    let built = builder.clone().build().map_err(|error| built_badly(&error, &shown))?;
    let (http, traffic) = governor.last().expect("the builder connects before it returns");
    let mut own_sas = None;
    let signer: Option<Arc<dyn Signer>> = match Proof::of(&setting, is_emulator) {
        Proof::None => None,
        Proof::Key(key) => Some(Arc::new(SharedKey::new(&account, key).ok_or_else(|| {
            invalid("azure_storage_account_key", "it is not base 64; copy it whole from the portal")
        })?)),
        Proof::Sas(text) => {
            let sas = Sas::new(text).ok_or_else(|| {
                invalid(
                    "azure_storage_sas_key",
                    "it is not of the form sv=…&sig=…; copy the whole token from the portal",
                )
            })?;
            own_sas = Some(sas.clone());
            Some(Arc::new(sas))
        }
        Proof::Tokens => {
            let make = move || Ok(Arc::clone(builder.clone().build()?.credentials()));
            let credentials = Provided::new(Arc::clone(built.credentials()), make);
            Some(Arc::new(Tokens { credentials, endpoint: endpoint.clone(), advice: &ADVICE }))
        }
    };
    let container_url = format!("{endpoint}/{}", place.container);
    let digests = Digests::at(&endpoint);
    let web = Web::new(http, traffic, endpoint, &ADVICE, signer);
    let client = Client { web, container: place.container, container_url, sas: own_sas };
    Ok((Azure { client, digests, starts_at_first: Default::default() }, place.prefix))
}

/// A container of nobody's, for tests of what needs one.
#[cfg(test)]
pub(super) fn connect_anonymously() -> Client {
    let options = [("azure_skip_signature", "true")].map(|(name, value)| (name.to_owned(), Secret::new(value)));
    connect("az://container@account.blob.core.windows.net", &options.into()).expect("nothing is wrong with it").0.client
}

/// How requests are proved.
enum Proof<'a> {
    None,
    Key(&'a str),
    Sas(&'a str),
    Tokens,
}

impl<'a> Proof<'a> {
    /// In the order in which `object_store` looks for credentials, so that what it would have done is what is done.
    fn of(setting: &impl Fn(AzureConfigKey) -> Option<&'a str>, is_emulator: bool) -> Self {
        use AzureConfigKey as Key;

        if setting(Key::SkipSignature).is_some_and(is_true) {
            return Self::None;
        }
        let key = setting(Key::AccessKey).map(Self::Key);
        let sas = setting(Key::SasKey).map(Self::Sas);
        match setting(Key::CredentialType).unwrap_or("auto") {
            "auto" => {}
            "access_key" => return key.unwrap_or(Self::Tokens),
            "sas_token" => return sas.unwrap_or(Self::Tokens),
            _ => return Self::Tokens,
        }
        let has_principal = setting(Key::ClientId).is_some()
            && setting(Key::AuthorityId).is_some()
            && (setting(Key::ClientSecret).is_some() || setting(Key::FederatedTokenFile).is_some());
        if setting(Key::Token).is_some() {
            return Self::Tokens;
        }
        match (key, sas) {
            (Some(key), _) => key,
            (None, Some(sas)) if !has_principal => sas,
            (None, None) if is_emulator => Self::Key(EMULATOR_KEY),
            _ => Self::Tokens,
        }
    }
}

/// What a URI says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) container: String,
    pub(super) account: Option<String>,
    /// What comes behind the account in the name of the service's host.
    host: Option<String>,
    /// Without a slash at either end.
    prefix: String,
}

impl Place {
    pub(super) fn parse(uri: &str, shown: &str) -> Result<Self> {
        let refuse = |reason: &str| Error::InvalidUri { uri: shown.to_owned(), reason: reason.to_owned() };
        let rest = uri.split_once("://").map_or("", |(_, rest)| rest);
        if rest.split_once('?').is_some_and(|(_, query)| query.contains("sig=")) {
            return Err(refuse("a SAS token does not belong in the URI; give it as option azure_storage_sas_key"));
        }
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let (container, account, host) = match authority.split_once('@') {
            None => (authority, None, None),
            Some((container, address)) => {
                let (account, host) = address.split_once('.').unwrap_or((address, ""));
                if account.is_empty() || !is_plain(account) {
                    return Err(refuse("no account is named; write container@account.dfs.core.windows.net"));
                }
                let host = match host.split_once('.') {
                    // The endpoint of files has no listing with versions, nor conditions on a write.
                    Some(("dfs" | "blob", domain)) if domain.contains('.') => format!("blob.{domain}"),
                    _ => {
                        return Err(refuse(
                            "write container@account.dfs.core.windows.net/prefix, or give another \
                                            address as option azure_storage_endpoint and write az://container/prefix",
                        ));
                    }
                };
                (container, Some(account.to_owned()), Some(host))
            }
        };
        if container.is_empty() {
            return Err(refuse(
                "no container is named; write az://container/prefix, or \
                               abfss://container@account.dfs.core.windows.net/prefix",
            ));
        }
        if !is_plain(container.strip_prefix('$').unwrap_or(container)) {
            return Err(refuse(
                "a container has only lower-case letters, digits and hyphens in its name; \
                               keys, ports and queries are given as options",
            ));
        }
        let prefix = check_prefix(prefix, shown)?;
        Ok(Self { container: container.to_owned(), account, host, prefix })
    }
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// What the environment adds. Credentials and endpoints are taken from it whole or not at all, and an account's key not for
/// another account.
fn environment(
    settings: &Settings,
    place: &Place,
    variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Settings {
    let has = |group: fn(&AzureConfigKey) -> bool| settings.iter().any(|(key, _)| group(key));
    let (own_keys, own_endpoint) = (has(is_credential), has(is_endpoint) || place.host.is_some());
    let found: Settings = variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter_map(|(name, value)| {
            let other = OTHER_VARIABLES.iter().find(|(variable, _)| *variable == name).map(|(_, key)| *key);
            let named = || name.starts_with("AZURE_").then(|| name.to_ascii_lowercase().parse().ok()).flatten();
            Some((other.or_else(named)?, value))
        })
        .filter(|(key, _)| !matches!(key, AzureConfigKey::ContainerName) && !is_unsupported(key))
        .collect();
    let account_of = |settings: &Settings| {
        settings.iter().find(|(key, _)| *key == AzureConfigKey::AccountName).map(|(_, value)| value.clone())
    };
    let account = place.account.clone().or_else(|| account_of(settings));
    let is_other = matches!((&account, account_of(&found)), (Some(account), Some(theirs)) if *account != theirs);
    found
        .into_iter()
        .filter(|(key, _)| !(own_keys && is_credential(key) || own_endpoint && is_endpoint(key)))
        .filter(|(key, _)| !(is_other && matches!(key, AzureConfigKey::AccessKey | AzureConfigKey::SasKey)))
        .filter(|(key, _)| !(account.is_some() && matches!(key, AzureConfigKey::AccountName)))
        .collect()
}

/// What would have to be said on every request that we make ourselves, and is not, or leads to another service.
fn is_unsupported(key: &AzureConfigKey) -> bool {
    use AzureConfigKey as Key;

    matches!(
        key,
        Key::EncryptionKey
            | Key::UseFabricEndpoint
            | Key::FabricTokenServiceUrl
            | Key::FabricWorkloadHost
            | Key::FabricSessionToken
            | Key::FabricClusterIdentifier
    )
}

fn is_credential(key: &AzureConfigKey) -> bool {
    use AzureConfigKey as Key;

    matches!(
        key,
        Key::AccessKey
            | Key::ClientId
            | Key::ClientSecret
            | Key::AuthorityId
            | Key::AuthorityHost
            | Key::SasKey
            | Key::Token
            | Key::MsiEndpoint
            | Key::ObjectId
            | Key::MsiResourceId
            | Key::FederatedTokenFile
            | Key::UseAzureCli
            | Key::CredentialType
            | Key::SkipSignature
            | Key::UseEmulator
    )
}

fn is_endpoint(key: &AzureConfigKey) -> bool {
    use AzureConfigKey as Key;

    matches!(key, Key::Endpoint | Key::UseEmulator | Key::Client(ClientConfigKey::AllowHttp))
}

fn option_key(name: &str, shown: &str) -> Result<AzureConfigKey> {
    let invalid = |reason: &str| Error::InvalidOption {
        uri: shown.to_owned(),
        option: name.to_owned(),
        reason: reason.to_owned(),
    };
    let key = name.to_ascii_lowercase().parse();
    let key = key.map_err(|_| TrafficSettings::unknown_option(name, USUAL, shown))?;
    match key {
        AzureConfigKey::ContainerName => Err(invalid("the container is named in the URI; leave this option out")),
        key if is_unsupported(&key) => {
            Err(invalid("this is not supported; use a storage account and the encryption that is set for it"))
        }
        key => Ok(key),
    }
}

fn check_endpoint(endpoint: &str, allow_http: bool, shown: &str) -> Result<()> {
    let invalid = |reason: String| {
        Err(Error::InvalidOption { uri: shown.to_owned(), option: "azure_storage_endpoint".into(), reason })
    };
    match Url::parse(endpoint) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() || url.query().is_some() => {
            invalid("keys do not belong in it; use azure_storage_account_key or azure_storage_sas_key".into())
        }
        Ok(url) if url.host_str().is_none() || !matches!(url.scheme(), "http" | "https") => {
            invalid("it is not of the form https://host:port".into())
        }
        Ok(url) if url.scheme() == "http" && !allow_http => {
            invalid("it is http://, which shows data to the network; set azure_allow_http=true if that is meant".into())
        }
        Ok(_) => Ok(()),
        Err(error) => invalid(format!("{error}; write https://host:port")),
    }
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on" | "y" | "t")
}

/// What the builder finds wrong: half of what belongs together, or a value of the wrong type.
fn built_badly(error: &object_store::Error, shown: &str) -> Error {
    let text = chain(error);
    let option = if text.contains("Access Key") {
        "azure_storage_account_key"
    } else if text.contains("SAS") {
        "azure_storage_sas_key"
    } else if text.contains("redential type") {
        "azure_credential_type"
    } else {
        "one of the azure_* options"
    };
    Error::InvalidOption { uri: shown.to_owned(), option: option.to_owned(), reason: text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::options;

    fn url_of(uri: &str, pairs: &[(&str, &str)]) -> String {
        let all: Vec<_> = pairs.iter().copied().chain([("azure_skip_signature", "true")]).collect();
        connect(uri, &options(&all)).unwrap().0.client.container_url
    }

    #[test]
    fn every_spelling_leads_to_its_container() {
        let expected = "https://acc.blob.core.windows.net/con";
        for scheme in ["abfs", "abfss", "az"] {
            assert_eq!(url_of(&format!("{scheme}://con@acc.dfs.core.windows.net/p/q/"), &[]), expected);
        }
        assert_eq!(url_of("wasbs://con@acc.blob.core.windows.net", &[]), expected);
        let china = url_of("abfss://con@acc.dfs.core.chinacloudapi.cn/p", &[]);
        assert_eq!(china, "https://acc.blob.core.chinacloudapi.cn/con");
        assert_eq!(url_of("az://con/p", &[("azure_storage_account_name", "acc")]), expected);
        let near = [("azure_storage_endpoint", "http://127.0.0.1:1/acc/"), ("azure_allow_http", "true")];
        assert_eq!(url_of("abfss://con@acc.dfs.core.windows.net", &near), "http://127.0.0.1:1/acc/con");
        let emulator = url_of("azure://con", &[("azure_storage_use_emulator", "true")]);
        assert_eq!(emulator, "http://127.0.0.1:10000/devstoreaccount1/con");
        assert_eq!(Place::parse("az://con/a%20b/", "").unwrap().prefix, "a%20b");
    }

    #[test]
    fn what_names_no_container_is_refused() {
        for bad in [
            "az://",
            "az:///p",
            "abfss://@acc.dfs.core.windows.net",
            "abfss://con@",
            "abfss://con@acc",
            "abfss://con@acc.example.com/p",
            "abfss://con:key@acc.dfs.core.windows.net",
            "az://Con/p",
            "az://con//p",
            "az://con/../p",
        ] {
            assert!(matches!(Place::parse(bad, bad), Err(Error::InvalidUri { .. })), "{bad}");
        }
        let error = open("az://con/p?sv=1&sig=hidden-value", &options(&[])).unwrap_err();
        assert!(
            error.to_string().contains("azure_storage_sas_key") && !error.to_string().contains("hidden"),
            "{error}"
        );
    }

    #[test]
    fn wrong_options_are_named_and_secrets_are_not() {
        let refused = |pairs: &[(&str, &str)]| open("abfss://c@a.dfs.core.windows.net", &options(pairs)).unwrap_err();
        let error = refused(&[("azure_storage_acount_key", "hidden-value")]);
        assert!(error.to_string().contains("did you mean azure_storage_account_key?"), "{error}");
        for (name, value) in [
            ("azure_storage_account_key", "hidden-value!"),
            ("azure_storage_sas_key", "hidden-value"),
            ("azure_storage_endpoint", "https://key:hidden-value@host"),
            ("azure_container_name", "other"),
            ("azure_storage_encryption_key", "hidden-value"),
            ("azure_credential_type", "hopes"),
        ] {
            let error = refused(&[(name, value)]);
            assert!(matches!(&error, Error::InvalidOption { option, .. } if option == name), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
        }
        let error = open("az://c", &options(&[])).unwrap_err();
        assert!(matches!(&error, Error::InvalidOption { option, .. } if option == "azure_storage_account_name"));
        let error = refused(&[("azure_storage_endpoint", "http://127.0.0.1:1")]);
        assert!(error.to_string().contains("azure_allow_http=true"), "{error}");
    }

    /// Another program's key for another account, or half of its credentials, would only break what was meant.
    #[test]
    fn the_environment_fills_what_is_open_and_mixes_nothing() {
        let env = |pairs: &[(&str, &str)], own: &Settings, uri: &str| {
            let variables: Vec<_> = pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let mut keys: Vec<_> = environment(own, &Place::parse(uri, "").unwrap(), variables.into_iter())
                .into_iter()
                .map(|(key, _)| key.as_ref().to_owned())
                .collect();
            keys.sort();
            keys
        };
        let theirs = [
            ("AZURE_STORAGE_ACCOUNT", "acc"),
            ("AZURE_STORAGE_KEY", "k"),
            ("AZURE_STORAGE_ENDPOINT", "e"),
            ("PATH", "p"),
        ];
        let all = ["azure_storage_account_key", "azure_storage_account_name", "azure_storage_endpoint"];
        assert_eq!(env(&theirs, &vec![], "az://c"), all);
        assert_eq!(env(&theirs, &vec![], "abfss://c@acc.dfs.core.windows.net"), all[..1]);
        assert!(env(&theirs, &vec![], "abfss://c@other.dfs.core.windows.net").is_empty());
        let own = vec![(AzureConfigKey::SasKey, "sig=x".to_owned())];
        assert_eq!(env(&theirs, &own, "az://c"), all[1..]);
    }

    #[test]
    fn proofs_come_in_the_known_order() {
        use AzureConfigKey as Key;
        let proof = |settings: &[(Key, &'static str)], is_emulator| {
            let setting = |key: Key| settings.iter().find(|(found, _)| *found == key).map(|(_, value)| *value);
            match Proof::of(&setting, is_emulator) {
                Proof::None => "none",
                Proof::Key(_) => "key",
                Proof::Sas(_) => "sas",
                Proof::Tokens => "tokens",
            }
        };
        let principal = [(Key::ClientId, "c"), (Key::AuthorityId, "t"), (Key::ClientSecret, "s"), (Key::SasKey, "x")];
        assert_eq!(proof(&[], false), "tokens");
        assert_eq!(proof(&[], true), "key");
        assert_eq!(proof(&[(Key::SasKey, "x")], true), "sas");
        assert_eq!(proof(&[(Key::SasKey, "x"), (Key::AccessKey, "k")], false), "key");
        assert_eq!(proof(&[(Key::Token, "t"), (Key::AccessKey, "k")], false), "tokens");
        assert_eq!(proof(&principal, false), "tokens");
        assert_eq!(proof(&[(Key::AccessKey, "k"), (Key::CredentialType, "managed_identity")], false), "tokens");
        assert_eq!(proof(&[(Key::AccessKey, "k"), (Key::SkipSignature, "true")], false), "none");
    }

    #[test]
    fn the_document_lists_every_option() {
        let aliases = crate::azure::ALIASES.iter().map(|alias| alias.name);
        let others = ["azure_credential_type", "azure_storage_authority_host", "fs.azure.sas.CONTAINER.ACCOUNT.…"];
        crate::document::lists("Azure Blob Storage", USUAL.iter().copied().chain(aliases).chain(others));
    }
}

//! Hadoop's and Alluxio's names for the options of `abfs://` and its like.
//!
//! Nearly all of them may end in the account that they are of (`.ACCOUNT.dfs.core.windows.net`), keys of `wasb://` always
//! do; what is said of an account goes before what is said of all. A SAS may be of a container of an account, too.

use object_store::azure::AzureConfigKey as Key;

use super::connect::Place;
use crate::{
    MountSpec, Result, Secret,
    alias::{Alias, Given, Reads, strip},
};

const ENDPOINT: &str = "fs.azure.account.oauth2.client.endpoint";
const AUTH_TYPE: &str = "fs.azure.account.auth.type";
const PROVIDER: &str = "fs.azure.account.oauth.provider.type";
const SAS: &str = "fs.azure.sas.fixed.token";
/// What `wasb://` has for it, always with a container and an account.
const CONTAINER_SAS: &str = "fs.azure.sas.";

pub(crate) const ALIASES: &[Alias] = &[
    Alias::same("fs.azure.account.key", "azure_storage_account_key"),
    Alias::same(SAS, "azure_storage_sas_key"),
    Alias::same("fs.azure.account.oauth2.client.id", "azure_storage_client_id"),
    Alias::same("fs.azure.account.oauth2.client.secret", "azure_storage_client_secret"),
    Alias { name: ENDPOINT, own: "azure_storage_tenant_id", reads: Reads::By(tenant) },
    Alias::same("fs.azure.account.oauth2.msi.endpoint", "azure_msi_endpoint"),
    Alias::same("fs.azure.account.oauth2.msi.tenant", "azure_storage_tenant_id"),
    Alias::same("fs.azure.account.oauth2.token.file", "azure_federated_token_file"),
    Alias { name: AUTH_TYPE, own: "azure_credential_type", reads: Reads::By(credential_type) },
    Alias { name: PROVIDER, own: "azure_credential_type", reads: Reads::By(provider) },
];

/// Gives everything the names of our own.
pub(crate) fn translate(spec: &MountSpec) -> Result<MountSpec> {
    let place = Place::parse(&spec.uri, &spec.redacted_uri())?;
    let given = Given::of(spec, same)?;
    let account = place.account.as_deref().or_else(|| given.get("azure_storage_account_name")).map(str::to_owned);
    let mut given = given.without_places(|name| plain(name, account.as_deref(), &place.container))?;
    let (of_type, of_provider) = (given.get(AUTH_TYPE), given.get(PROVIDER));
    // The one says that there is a login, the other which.
    if of_type.is_some_and(|text| text.trim().eq_ignore_ascii_case("OAuth")) && of_provider.is_some() {
        given.take(AUTH_TYPE);
    }
    let host = given.get(ENDPOINT).and_then(|url| Some((authority_of(url)?.to_owned(), ENDPOINT)));
    let mut given = given.translated(ALIASES)?;
    if let Some((host, written)) = host.filter(|(host, _)| host != "https://login.microsoftonline.com") {
        given.put("azure_storage_authority_host", written, Secret::new(host))?;
    }
    Ok(given.into_spec(spec))
}

fn same(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.parse::<Key>().map_or(name, |key| key.as_ref().to_owned())
}

/// The name without container and account, if it holds any.
fn plain(name: &str, account: Option<&str>, container: &str) -> std::result::Result<Option<String>, String> {
    let long = ALIASES.iter().find_map(|alias| Some((alias.name, strip(name, alias.name)?.strip_prefix('.')?)));
    // `fs.azure.account.oauth2.client.id` is no account of `fs.azure.account`, and so on: the tables have no such pair.
    let (plain, place) = match long {
        Some(long) => long,
        None => match strip(name, CONTAINER_SAS) {
            Some(place) if place.contains(".blob.") || place.contains(".dfs.") => (SAS, place),
            _ => return Ok(None),
        },
    };
    let Some((before, _)) = place.split_once(".dfs.").or_else(|| place.split_once(".blob.")) else {
        return Err("it does not end as ACCOUNT.dfs.core.windows.net does".to_owned());
    };
    let (named_container, named_account) = match before.split_once('.') {
        Some((container, account)) if plain == SAS => (Some(container), account),
        _ => (None, before),
    };
    match account {
        None => Err("the URI names no account; write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net, or set \
                     azure_storage_account_name"
            .to_owned()),
        Some(account) if account != named_account => {
            Err(format!("it is of another account than {account}; leave it out"))
        }
        _ if named_container.is_some_and(|named| named != container) => {
            Err(format!("it is of another container than {container}; leave it out"))
        }
        _ => Ok(Some(plain.to_owned())),
    }
}

/// Scheme and host of where tokens are asked for.
fn authority_of(url: &str) -> Option<&str> {
    let url = url.trim();
    let start = url.find("://")? + 3;
    Some(url[start..].find('/').map_or(url, |end| &url[..start + end]))
}

/// The tenant in `https://login.microsoftonline.com/TENANT/oauth2/token`, or `…/oauth2/v2.0/token`.
fn tenant(url: &str) -> std::result::Result<String, String> {
    let path = authority_of(url).map(|host| &url[host.len()..]);
    let tenant = path.and_then(|path| {
        let path = path.strip_prefix('/')?;
        path.strip_suffix("/oauth2/token").or_else(|| path.strip_suffix("/oauth2/v2.0/token"))
    });
    match tenant {
        Some(tenant) if !tenant.is_empty() && !tenant.contains('/') => Ok(tenant.to_owned()),
        _ => Err("it is not of the form https://login.microsoftonline.com/TENANT/oauth2/token".to_owned()),
    }
}

fn credential_type(text: &str) -> std::result::Result<String, String> {
    match text.to_ascii_lowercase().as_str() {
        "sharedkey" => Ok("access_key".to_owned()),
        "sas" => Ok("sas_token".to_owned()),
        "oauth" => Ok("auto".to_owned()),
        _ => Err("it is neither SharedKey, SAS nor OAuth".to_owned()),
    }
}

fn provider(class: &str) -> std::result::Result<String, String> {
    match class.strip_prefix("org.apache.hadoop.fs.azurebfs.oauth2.") {
        Some("ClientCredsTokenProvider") => Ok("client_secret".to_owned()),
        Some("MsiTokenProvider") => Ok("managed_identity".to_owned()),
        Some("WorkloadIdentityTokenProvider") => Ok("workload_identity".to_owned()),
        _ => Err("it is neither ClientCredsTokenProvider, MsiTokenProvider nor WorkloadIdentityTokenProvider of \
                  org.apache.hadoop.fs.azurebfs.oauth2"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    const URI: &str = "abfss://con@acc.dfs.core.windows.net/p";

    fn spec(uri: &str, pairs: &[(&str, &str)]) -> MountSpec {
        MountSpec::with(uri, pairs)
    }

    #[test]
    fn a_mount_by_aliases_is_the_mount_by_own_names() {
        let is_the_same = |by_alias: &[(&str, &str)], by_own: &[(&str, &str)]| {
            let translated = translate(&spec(URI, by_alias)).unwrap();
            assert!(translated == spec(URI, by_own), "{by_alias:?}: {:?}", translated.options.keys());
            super::super::open(URI, &translated.options).unwrap();
        };
        let key = [("azure_storage_account_key", "a2V5")];
        is_the_same(&[("fs.azure.account.key.acc.dfs.core.windows.net", "a2V5")], &key);
        is_the_same(&[("fs.azure.account.key.acc.blob.core.windows.net", "a2V5")], &key);
        is_the_same(
            &[("fs.azure.account.key", "else"), ("fs.azure.account.key.acc.dfs.core.windows.net", "a2V5")],
            &key,
        );
        let sas = [("azure_storage_sas_key", "sv=1&sig=x")];
        is_the_same(&[("fs.azure.sas.con.acc.blob.core.windows.net", "sv=1&sig=x")], &sas);
        is_the_same(&[("fs.azure.sas.fixed.token.acc.dfs.core.windows.net", "sv=1&sig=x")], &sas);
        is_the_same(&[("fs.azure.sas.fixed.token", "sv=1&sig=x")], &sas);
        let oauth = [
            (AUTH_TYPE, "OAuth"),
            (PROVIDER, "org.apache.hadoop.fs.azurebfs.oauth2.ClientCredsTokenProvider"),
            ("fs.azure.account.oauth2.client.id.acc.dfs.core.windows.net", "c"),
            ("fs.azure.account.oauth2.client.secret", "s"),
            (ENDPOINT, "https://login.microsoftonline.com/tenant/oauth2/token"),
        ];
        let own = [
            ("azure_credential_type", "client_secret"),
            ("azure_storage_client_id", "c"),
            ("azure_storage_client_secret", "s"),
            ("azure_storage_tenant_id", "tenant"),
        ];
        is_the_same(&oauth, &own);
        let elsewhere = [(ENDPOINT, "https://login.chinacloudapi.cn/t/oauth2/v2.0/token")];
        let own =
            [("azure_storage_authority_host", "https://login.chinacloudapi.cn"), ("azure_storage_tenant_id", "t")];
        is_the_same(&elsewhere, &own);
        is_the_same(
            &[(AUTH_TYPE, "SharedKey"), ("fs.azure.account.key", "a2V5")],
            &[("azure_credential_type", "access_key"), key[0]],
        );
        let identity =
            [("fs.azure.account.oauth2.msi.endpoint", "http://h/token"), ("fs.azure.account.oauth2.msi.tenant", "t")];
        is_the_same(&identity, &[("azure_msi_endpoint", "http://h/token"), ("azure_storage_tenant_id", "t")]);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        let refused = |uri: &str, name: &str, value: &str| {
            let error = translate(&spec(uri, &[(name, value), ("azure_storage_sas_key", "hidden-own")])).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
            assert!(matches!(&error, Error::InvalidOption { option, .. } if option == name), "{error}");
            error.to_string()
        };
        let text = refused(URI, "fs.azure.account.key.other.dfs.core.windows.net", "hidden");
        assert!(text.contains("another account than acc"), "{text}");
        let text = refused(URI, "fs.azure.sas.other.acc.blob.core.windows.net", "hidden");
        assert!(text.contains("another container than con"), "{text}");
        let text = refused("az://con/p", "fs.azure.account.key.acc.dfs.core.windows.net", "hidden");
        assert!(text.contains("azure_storage_account_name"), "{text}");
        let text = refused(URI, "fs.azure.sas.fixed.token", "hidden");
        assert!(text.contains("azure_storage_sas_key"), "{text}");
        refused(URI, ENDPOINT, "https://login.microsoftonline.com/hidden");
        refused(URI, AUTH_TYPE, "Custom");
        refused(URI, PROVIDER, "com.example.Own");
    }
}

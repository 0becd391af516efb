//! Alluxio's names for the options of `swift://`.
//!
//! What they mean depends on `fs.swift.auth.method`: `tempauth`, the default, and `swiftauth` are logins of version 1, whose user is `TENANT:USER`;
//! `keystonev3` takes user and tenant for ids, and its URL is where tokens are asked for.

use crate::{
    MountSpec, Result, Secret,
    alias::{Alias, Given, Reads, one_name},
};

const METHOD: &str = "fs.swift.auth.method";
const URL: &str = "fs.swift.auth.url";
const USER: &str = "fs.swift.user";
const TENANT: &str = "fs.swift.tenant";
const PASSWORD: &str = "fs.swift.password";
const REGION: &str = "fs.swift.region";

/// Those of version 1 stand for the ones that depend on the method.
pub(crate) const ALIASES: &[Alias] = &[
    Alias::same(URL, "swift_auth_url"),
    Alias::same(USER, "swift_user"),
    Alias::same(TENANT, "swift_user"),
    Alias::same(PASSWORD, "swift_key"),
    Alias::same(METHOD, ""),
    Alias::same(REGION, "os_region_name"),
    Alias { name: "fs.swift.use.public.url", own: "os_interface", reads: Reads::By(interface) },
];

/// Gives everything the names of our own.
pub(crate) fn translate(spec: &MountSpec) -> Result<MountSpec> {
    let mut given = Given::of(spec, one_name)?;
    let [method, url, user, tenant, password] = [METHOD, URL, USER, TENANT, PASSWORD].map(|name| given.take(name));
    let method_name = method.as_ref().map_or("tempauth", |(_, method)| method.expose().trim()).to_ascii_lowercase();
    let given_as = |method: &str| match method {
        "tempauth" | "swiftauth" => Some(["swift_auth_url", "swift_user", "swift_key"]),
        "keystonev3" => Some(["os_auth_url", "os_user_id", "os_password"]),
        _ => None,
    };
    let Some([own_url, own_user, own_password]) = given_as(&method_name) else {
        let reason = "it is neither tempauth, swiftauth nor keystonev3, the logins that are spoken here";
        return Err(given.invalid(METHOD, reason));
    };
    let is_keystone = method_name == "keystonev3";
    if !is_keystone && given.get(REGION).is_some() && (url.is_some() || method.is_some()) {
        let reason = format!("a login by {method_name} knows no regions; leave it out, or set {METHOD}=keystonev3");
        return Err(given.invalid(REGION, reason));
    }
    if let Some((written, url)) = url {
        let tokens = url.expose().trim().trim_end_matches('/');
        let url = if is_keystone { Secret::new(tokens.trim_end_matches("/auth/tokens")) } else { url.clone() };
        given.put(own_url, &written, url)?;
    }
    match (user, tenant) {
        (Some((written, user)), Some((_, tenant))) if !is_keystone => {
            let both = format!("{}:{}", tenant.expose().trim(), user.expose().trim());
            given.put(own_user, &written, Secret::new(both))?;
        }
        (Some((written, user)), tenant) => {
            given.put(own_user, &written, user)?;
            if let Some((written, tenant)) = tenant {
                given.put("os_project_id", &written, tenant)?;
            }
        }
        (None, Some((written, _))) => return Err(given.invalid(&written, format!("{USER} goes with it; set both"))),
        (None, None) => {}
    }
    if let Some((written, password)) = password {
        given.put(own_password, &written, password)?;
    }
    Ok(given.translated(ALIASES)?.into_spec(spec))
}

fn interface(is_public: &str) -> std::result::Result<String, String> {
    match is_public.to_ascii_lowercase().as_str() {
        "true" => Ok("public".to_owned()),
        "false" => Ok("internal".to_owned()),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn spec(pairs: &[(&str, &str)]) -> MountSpec {
        MountSpec::with("swift://c/p", pairs)
    }

    #[test]
    fn a_mount_by_aliases_is_the_mount_by_own_names() {
        let is_the_same = |by_alias: &[(&str, &str)], by_own: &[(&str, &str)]| {
            assert!(translate(&spec(by_alias)).unwrap() == spec(by_own), "{by_alias:?}");
            super::super::open("swift://c/p", &translate(&spec(by_alias)).unwrap().options).unwrap();
        };
        let v1 = [("swift_auth_url", "https://h/auth/v1.0"), ("swift_user", "t:u"), ("swift_key", "k")];
        let named = [(URL, "https://h/auth/v1.0"), (TENANT, "t"), (USER, "u"), (PASSWORD, "k")];
        is_the_same(&named, &v1);
        is_the_same(&[&named[..], &[(METHOD, "swiftauth")]].concat(), &v1);
        is_the_same(&[(URL, "https://h/auth/v1.0"), (USER, "t:u"), (PASSWORD, "k"), (METHOD, "tempauth")], &v1);
        let keystone = [
            (URL, "https://k:5000/v3/auth/tokens"),
            (TENANT, "t"),
            (USER, "u"),
            (PASSWORD, "k"),
            (METHOD, "keystonev3"),
            (REGION, "r"),
            ("fs.swift.use.public.url", "false"),
        ];
        let own = [
            ("os_auth_url", "https://k:5000/v3"),
            ("os_project_id", "t"),
            ("os_user_id", "u"),
            ("os_password", "k"),
            ("os_region_name", "r"),
            ("os_interface", "internal"),
        ];
        is_the_same(&keystone, &own);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        let refused = |pairs: &[(&str, &str)]| match translate(&spec(pairs)).unwrap_err() {
            Error::InvalidOption { option, .. } => option,
            other => panic!("{other}"),
        };
        assert_eq!(refused(&[(METHOD, "keystone")]), METHOD);
        assert_eq!(refused(&[(URL, "https://h"), (REGION, "r")]), REGION);
        assert_eq!(refused(&[(TENANT, "t")]), TENANT);
        assert_eq!(refused(&[(PASSWORD, "one"), ("swift_key", "two")]), PASSWORD);
        assert_eq!(refused(&[("fs.swift.use.public.url", "perhaps")]), "fs.swift.use.public.url");
    }
}

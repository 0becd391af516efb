//! The services of OpenDAL that are built in: how a URI leads to each, and what it is known to do.
//!
//! Left out are services that Citius speaks itself (s3, gcs, azblob, oss, swift, hdfs, sftp; `webdav` is here because a
//! server of it shows that what is built on OpenDAL works), those that speak S3 and are mounted as that (cos, obs, b2,
//! tos), those that need a C library or a local file of their own (hdfs, rocksdb, foundationdb, sqlite…), and those that
//! keep values rather than files (redis, memcached, etcd…); Azure's (azdls, azfile), which bring an implementation of RSA
//! with a known leak; webhdfs, through which a file whose name has letters in decomposed form was listed and could not be read (Hadoop 3.4.2;
//! the cause was not looked for); and ftp, whose client links a second provider of cryptography into every process: rustls then has
//! no default one, and panics where it is asked for that.

use std::collections::BTreeMap;

use opendal::{Configurator, Operator, services};
use serde::de::{self, Deserializer, Visitor};

/// What is wrong with a service's options.
#[derive(Debug)]
pub(super) enum Wrong {
    /// This one has a value of another kind than it should.
    Value(String),
    /// They do not make a service; why, in OpenDAL's words, which name no value.
    Whole(String),
}

/// What the part of a URI between the slashes says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authority {
    /// The server, which the option `endpoint` has with this before it.
    Endpoint(&'static str),
    /// What this option says.
    Option(&'static str),
    /// There is none.
    None,
}

/// What a listing tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    /// All that is told of a file that is asked for by its name.
    Whole,
    /// Names; each is asked for.
    Names,
}

/// A service.
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) authority: Authority,
    /// The option that the first component of the path stands for.
    pub(super) first: Option<&'static str>,
    pub(super) listed: Listed,
    pub(super) open: fn(&BTreeMap<String, String>) -> Result<Operator, Wrong>,
    /// The names of its options.
    pub(super) options: fn() -> &'static [&'static str],
}

impl Service {
    const fn new<C: Configurator>(name: &'static str, authority: Authority) -> Self {
        Self { name, authority, first: None, listed: Listed::Names, open: open::<C>, options: options_of::<C> }
    }

    const fn first(self, option: &'static str) -> Self {
        Self { first: Some(option), ..self }
    }

    const fn listed_whole(self) -> Self {
        Self { listed: Listed::Whole, ..self }
    }
}

pub(super) const SERVICES: &[Service] = &[
    Service::new::<services::DropboxConfig>("dropbox", Authority::None),
    #[cfg(feature = "testing")]
    Service::new::<services::FsConfig>("fs", Authority::None),
    Service::new::<services::GdriveConfig>("gdrive", Authority::None),
    Service::new::<services::GithubConfig>("github", Authority::Option("owner")).first("repo"),
    Service::new::<services::KoofrConfig>("koofr", Authority::Endpoint("https://")),
    Service::new::<services::OnedriveConfig>("onedrive", Authority::None),
    Service::new::<services::PcloudConfig>("pcloud", Authority::Endpoint("https://")),
    Service::new::<services::SeafileConfig>("seafile", Authority::Endpoint("https://")).first("repo_name"),
    Service::new::<services::UpyunConfig>("upyun", Authority::Option("bucket")),
    Service::new::<services::WebdavConfig>("webdav", Authority::Endpoint("https://")).listed_whole(),
    Service::new::<services::YandexDiskConfig>("yandex-disk", Authority::None),
];

fn open<C: Configurator>(options: &BTreeMap<String, String>) -> Result<Operator, Wrong> {
    let is_read = |options: Vec<(String, String)>| C::from_iter(options);
    let all = options.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let Ok(config) = is_read(all) else {
        // What OpenDAL says of it may quote the value.
        let wrong = options.iter().find(|(name, value)| is_read(vec![((*name).clone(), (*value).clone())]).is_err());
        return Err(wrong.map_or_else(
            || Wrong::Whole("they do not belong together".to_owned()),
            |(name, _)| Wrong::Value(name.clone()),
        ));
    };
    Operator::from_config(config).map_err(|error| Wrong::Whole(error.message().to_owned()))
}

/// OpenDAL ignores options that it does not know. Which it knows is what its configuration asks of whoever deserializes it.
fn options_of<C: Configurator>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // It is never given a value, only asked.
    let _ = C::deserialize(FieldsOf(&mut fields));
    fields
}

/// Learns the names of the fields of a struct.
struct FieldsOf<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldsOf<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("a struct was expected"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("its fields are known now"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both what a URI stands for and what users give must be options that there are.
    #[test]
    fn every_service_says_which_options_it_has() {
        for service in SERVICES {
            let options = (service.options)();
            assert!(options.contains(&"root"), "{}: {options:?}", service.name);
            let named = match service.authority {
                Authority::Endpoint(_) => Some("endpoint"),
                Authority::Option(name) => Some(name),
                Authority::None => None,
            };
            for name in named.into_iter().chain(service.first) {
                assert!(options.contains(&name), "{} has no {name}: {options:?}", service.name);
            }
        }
        assert!(SERVICES.is_sorted_by_key(|service| service.name));
    }
}

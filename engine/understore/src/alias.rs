//! Names that other programs have for our options: Alluxio's and Hadoop's, for the most part.
//!
//! Before a store is opened, what was given by such a name is given by our own ([`Given`]), so that no system knows of two
//! ways to say a thing. What one name says may not be denied by another: that is an error with both names, as is a value
//! that cannot be honoured. Names were taken from the documents and defaults of those programs.
//!
//! Each system has a table, which docs/mount-options.md lists and by which values are shown or hidden as those of our own
//! options are; what a table cannot say - names that hold a bucket or an account, values that mean something only together -
//! is a function beside it.

use std::collections::BTreeMap;

use crate::{Error, MountSpec, Result, Secret};

/// Another name for an option.
pub(crate) struct Alias {
    pub(crate) name: &'static str,
    /// The option of ours that it stands for; empty where it asks for what is done anyway.
    pub(crate) own: &'static str,
    pub(crate) reads: Reads,
}

/// How the value of an alias is read.
pub(crate) enum Reads {
    /// As it is.
    Same,
    /// `true` for `false`, and `false` for `true`.
    Opposite,
    /// By a function, which says why it cannot.
    By(fn(&str) -> std::result::Result<String, String>),
    /// Only this one can be honoured.
    Only(&'static str),
}

impl Alias {
    /// An alias with the same values.
    pub(crate) const fn same(name: &'static str, own: &'static str) -> Self {
        Self { name, own, reads: Reads::Same }
    }

    /// An alias of a switch that is on where ours is off.
    pub(crate) const fn opposite(name: &'static str, own: &'static str) -> Self {
        Self { name, own, reads: Reads::Opposite }
    }

    /// What is accepted with a value that asks for what is done anyway.
    pub(crate) const fn only(name: &'static str, value: &'static str) -> Self {
        Self { name, own: "", reads: Reads::Only(value) }
    }

    fn read(&self, value: &str) -> std::result::Result<Option<String>, String> {
        let trimmed = value.trim();
        match self.reads {
            Reads::Same => Ok(Some(value.to_owned())),
            Reads::Opposite if trimmed.eq_ignore_ascii_case("true") => Ok(Some("false".to_owned())),
            Reads::Opposite if trimmed.eq_ignore_ascii_case("false") => Ok(Some("true".to_owned())),
            Reads::Opposite => Err("it is neither true nor false".to_owned()),
            Reads::By(read) => read(trimmed).map(Some),
            Reads::Only(wanted) if trimmed.eq_ignore_ascii_case(wanted) => Ok(None),
            Reads::Only(wanted) => Err(format!("only {wanted} can be honoured here; leave it out")),
        }
    }
}

/// An option as it was given.
struct Said {
    /// The name that the system is told.
    name: String,
    /// The name that the user wrote.
    written: String,
    value: Secret,
}

/// The options of a mount on their way from what was written to names of our own.
pub(crate) struct Given {
    /// The URI for errors.
    shown: String,
    options: BTreeMap<String, Said>,
    /// Makes one of all names that an option of our own has.
    same: fn(&str) -> String,
}

impl Given {
    /// What was given. `same` makes one of all names that an option of our own has.
    pub(crate) fn of(spec: &MountSpec, same: fn(&str) -> String) -> Result<Self> {
        let mut given = Self { shown: spec.redacted_uri(), options: BTreeMap::new(), same };
        for (name, value) in &spec.options {
            given.put(name, name, value.clone())?;
        }
        Ok(given)
    }

    /// Takes a bucket, a container or an account out of names that hold one. What was said of it in particular goes before
    /// what was said in general. `plain` gives the name without it, and the reason why a name is of no use to this mount.
    pub(crate) fn without_places(
        mut self,
        plain: impl Fn(&str) -> std::result::Result<Option<String>, String>,
    ) -> Result<Self> {
        let mut special = BTreeMap::<String, Said>::new();
        for (key, said) in std::mem::take(&mut self.options) {
            let Some(name) = plain(&said.written).map_err(|reason| self.invalid(&said.written, reason))? else {
                self.options.insert(key, said);
                continue;
            };
            let key = (self.same)(&name);
            if let Some(other) = special.get(&key).filter(|other| other.value != said.value) {
                return Err(self.contradiction(&said.written, &other.written));
            }
            special.insert(key, Said { name, ..said });
        }
        self.options.extend(special);
        Ok(self)
    }

    /// Gives every alias its own name.
    pub(crate) fn translated(self, aliases: &[Alias]) -> Result<Self> {
        let Self { shown, options, same } = self;
        let mut out = Self { shown, options: BTreeMap::new(), same };
        for (name, said) in options {
            let Some(alias) = aliases.iter().find(|alias| alias.name.eq_ignore_ascii_case(&name)) else {
                out.put(&said.name, &said.written, said.value)?;
                continue;
            };
            let value = alias.read(said.value.expose()).map_err(|reason| out.invalid(&said.written, reason))?;
            if let Some(value) = value {
                out.put(alias.own, &said.written, Secret::new(value))?;
            }
        }
        Ok(out)
    }

    /// The value of an option, by any of its names of our own.
    pub(crate) fn get(&self, own: &str) -> Option<&str> {
        self.options.get(&(self.same)(own)).map(|said| said.value.expose())
    }

    /// As [`Given::get`], but only what was given by an alias; and by which.
    pub(crate) fn by_alias(&self, own: &str) -> Option<(&str, &str)> {
        let said = self.options.get(&(self.same)(own)).filter(|said| (self.same)(&said.written) != (self.same)(own))?;
        Some((&said.written, said.value.expose()))
    }

    /// Takes an option away, and says by which name it was given.
    pub(crate) fn take(&mut self, own: &str) -> Option<(String, Secret)> {
        self.options.remove(&(self.same)(own)).map(|said| (said.written, said.value))
    }

    /// Gives an option, as that which the user wrote as `written` means it.
    pub(crate) fn put(&mut self, own: &str, written: &str, value: Secret) -> Result<()> {
        let key = (self.same)(own);
        match self.options.get(&key) {
            Some(other) if other.value != value => Err(self.contradiction(written, &other.written)),
            // The user's own name stays, for what is said of it.
            Some(_) => Ok(()),
            None => {
                let said = Said { name: own.to_owned(), written: written.to_owned(), value };
                self.options.insert(key, said);
                Ok(())
            }
        }
    }

    pub(crate) fn invalid(&self, option: &str, reason: impl Into<String>) -> Error {
        Error::InvalidOption { uri: self.shown.clone(), option: option.to_owned(), reason: reason.into() }
    }

    fn contradiction(&self, name: &str, other: &str) -> Error {
        self.invalid(name, format!("{other} means the same and has another value; give one of the two"))
    }

    /// The mount by names of our own.
    pub(crate) fn into_spec(self, spec: &MountSpec) -> MountSpec {
        let options = self.options.into_values().map(|said| (said.name, said.value)).collect();
        MountSpec { options, ..spec.clone() }
    }
}

/// The rest of a name that begins with `beginning`, in whatever letters.
pub(crate) fn strip<'a>(name: &'a str, beginning: &str) -> Option<&'a str> {
    let head = name.get(..beginning.len())?;
    head.eq_ignore_ascii_case(beginning).then(|| &name[beginning.len()..])
}

/// Options of a system that has but one name for each.
pub(crate) fn one_name(name: &str) -> String {
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIASES: &[Alias] = &[
        Alias::same("x.key", "key"),
        Alias::same("y.key", "key"),
        Alias::opposite("x.off", "on"),
        Alias::only("x.odd", "false"),
        Alias {
            name: "x.number",
            own: "number",
            reads: Reads::By(|text| text.parse::<u8>().map(|n| n.to_string()).map_err(|_| "no number".into())),
        },
    ];

    fn translated(pairs: &[(&str, &str)]) -> Result<BTreeMap<String, Secret>> {
        let spec = MountSpec::with("x://b", pairs);
        Ok(Given::of(&spec, one_name)?.translated(ALIASES)?.into_spec(&spec).options)
    }

    #[test]
    fn aliases_say_what_own_names_say() {
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect()
        };
        assert_eq!(
            translated(&[("X.Key", "a"), ("x.off", "False"), ("x.odd", "false"), ("other", "o")]).unwrap(),
            own(&[("key", "a"), ("on", "true"), ("other", "o")])
        );
        // The same thing may be said twice.
        assert_eq!(translated(&[("key", "a"), ("x.key", "a"), ("y.key", "a")]).unwrap(), own(&[("key", "a")]));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_the_name_that_was_written() {
        let refused = |pairs: &[(&str, &str)]| {
            let error = translated(pairs).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
            match error {
                Error::InvalidOption { option, reason, .. } => (option, reason),
                other => panic!("{other}"),
            }
        };
        for (one, two) in [("key", "x.key"), ("x.key", "y.key")] {
            let (option, reason) = refused(&[(one, "hidden-1"), (two, "hidden-2")]);
            assert!(option == two && reason.contains(one), "{option}: {reason}");
        }
        assert_eq!(refused(&[("x.odd", "true")]).0, "x.odd");
        assert_eq!(refused(&[("x.off", "hidden")]).0, "x.off");
        assert_eq!(refused(&[("x.number", "hidden")]), ("x.number".to_owned(), "no number".to_owned()));
    }

    #[test]
    fn what_is_said_of_a_place_goes_before_what_is_said_of_all() {
        let place = |name: &str| match name.strip_prefix("p.") {
            Some("elsewhere.key") => Err("it is of another place".to_owned()),
            Some(rest) => Ok(rest.split_once('.').map(|(_, rest)| format!("x.{rest}"))),
            None => Ok(None),
        };
        let plain = |pairs: &[(&str, &str)]| {
            let spec = MountSpec::with("x://b", pairs);
            Ok::<_, Error>(
                Given::of(&spec, one_name)?.without_places(place)?.translated(ALIASES)?.into_spec(&spec).options,
            )
        };
        assert_eq!(plain(&[("x.key", "all"), ("p.b.key", "own")]).unwrap()["key"].expose(), "own");
        assert!(plain(&[("p.a.key", "1"), ("p.b.key", "2")]).unwrap_err().to_string().contains("p.a.key"));
        assert!(plain(&[("p.elsewhere.key", "1")]).unwrap_err().to_string().contains("another place"));
    }
}

//! `citius mount check`: every cause has its own words, and the exit code that a mount for the same cause has.

use crate::bucket::Prefix;
use crate::support::{Process, citius, put};
use citius_understore::testing::servers::{Certified, Tls, scripted};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Exit codes.
const USAGE: i32 = 2;
const DENIED: i32 = 4;
const UNAVAILABLE: i32 = 5;

/// Runs `mount check --json`, with its exit code and what it said of an error.
fn check(target: &str, flags: &[String]) -> (i32, Value, String) {
    let output = citius().args(["--json", "mount", "check", target]).args(flags).output().unwrap();
    let checkup = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), checkup, String::from_utf8(output.stderr).unwrap())
}

/// The step that failed with this exit code, and its words.
fn failure(exit_code: i32, target: &str, flags: &[String]) -> (String, String) {
    let (code, checkup, error) = check(target, flags);
    assert_eq!((code, checkup["works"].as_bool()), (exit_code, Some(false)), "{checkup} {error}");
    let steps = checkup["steps"].as_array().unwrap();
    let failed: Vec<_> = steps.iter().filter(|step| step["result"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{checkup}");
    assert_eq!(steps.last().unwrap()["result"], "failed", "what comes after a failure is not claimed: {checkup}");
    let words = failed[0]["words"].as_str().unwrap().to_owned();
    assert!(error.contains(&words.replace('"', "\\\"")), "{error} / {words}");
    (failed[0]["name"].as_str().unwrap().to_owned(), words)
}

/// Options with one of them changed.
fn with(options: &[String], name: &str, value: &str) -> Vec<String> {
    let mut changed: Vec<String> = Vec::new();
    for pair in options.chunks(2).filter(|pair| !pair[1].starts_with(&format!("{name}="))) {
        changed.extend_from_slice(pair);
    }
    changed.extend(["--option".to_owned(), format!("{name}={value}")]);
    changed
}

#[test]
fn a_good_bucket_passes_and_shows_what_it_can_do() {
    let bucket = Prefix::new("checked");
    bucket.put("f", b"content".to_vec());
    let flags = [bucket.options(), vec!["--write".to_owned()]].concat();
    let (code, checkup, error) = check(&bucket.uri(), &flags);
    assert_eq!((code, checkup["works"].as_bool()), (0, Some(true)), "{checkup} {error}");
    let steps: Vec<_> =
        checkup["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect();
    let expected = [
        "settings",
        "network",
        "keys",
        "place",
        "list",
        "read",
        "write",
        "create only",
        "replace",
        "large write",
        "rename",
        "clean up",
    ];
    assert_eq!(steps, expected);
    let seen = checkup["abilities"].as_array().unwrap().iter().filter(|ability| ability["seen"] == true).count();
    assert_eq!(seen, 2, "{checkup}");
    // The same from a master, by the path of a mount, in words.
    let master = bucket.local();
    let text = master.text(&["mount", "check", "/data", "--write"]);
    assert!(text.contains("create a file only where none is") && !text.contains("FAILED"), "{text}");
    assert_eq!(master.text(&["ls", "/data"]).trim(), "f", "nothing is left");
    let error = master.fails(3, &["mount", "check", "/nowhere"]);
    assert!(error.contains("is not a mount"), "{error}");
}

#[test]
fn each_cause_has_its_own_words() {
    let bucket = Prefix::new("causes");
    let (uri, options) = (bucket.uri(), bucket.options());

    let (step, words) = failure(DENIED, &uri, &with(&options, "aws_secret_access_key", "wrong"));
    assert_eq!(step, "keys");
    assert!(words.contains("refused the keys") && words.contains("check aws_access_key_id and "), "{words}");
    let (step, words) = failure(DENIED, &uri, &with(&options, "aws_access_key_id", "nobody"));
    assert_eq!(step, "keys");
    assert!(words.contains("refused the keys") && words.contains("check aws_access_key_id and "), "{words}");

    let (step, words) = failure(USAGE, "s3://no-such-bucket", &options);
    assert_eq!(step, "place");
    assert!(words.contains("does not exist") && words.contains("create it, or check its name and aws_"), "{words}");
    let local = Process::local(&[]);
    let arguments: Vec<_> = options.iter().map(String::as_str).collect();
    let error = local.fails(USAGE, &[&["mount", "add", "/data", "s3://no-such-bucket"], arguments.as_slice()].concat());
    assert!(error.contains("does not exist"), "a mount of it has the same code and words: {error}");

    // A name that is not there, and a port where nobody listens.
    const NOBODY: &str = "check that it runs, aws_endpoint and the network";
    let (step, words) = failure(UNAVAILABLE, &uri, &with(&options, "aws_endpoint", "http://no-such-host.invalid:9"));
    assert_eq!(step, "network");
    assert!(words.contains("does not answer") && words.contains("dns") && words.contains(NOBODY), "{words}");
    let (step, words) = failure(UNAVAILABLE, &uri, &with(&options, "aws_endpoint", "http://127.0.0.1:9"));
    assert_eq!(step, "network");
    assert!(words.contains("does not answer") && words.contains("refused") && words.contains(NOBODY), "{words}");

    // TLS to a port that speaks none.
    let (step, words) =
        failure(DENIED, &uri, &with(&options, "aws_endpoint", &bucket.endpoint().replace("http:", "https:")));
    assert_eq!(step, "network");
    assert!(words.contains("no safe connection") && words.contains("does not speak TLS: name the one"), "{words}");
    let (step, words) = failure(DENIED, &bucket.endpoint().replace("http:", "webdavs:"), &[]);
    assert_eq!(step, "network");
    assert!(words.contains("no safe connection") && words.contains("does not speak TLS: name the one"), "{words}");
    let (step, words) = failure(USAGE, &uri, &with(&options, "aws_regoin", "x"));
    assert_eq!(step, "settings");
    assert!(words.contains("did you mean aws_region?"), "{words}");
}

#[test]
fn who_may_only_read_is_told_at_the_first_write() {
    let bucket = Prefix::new("guest");
    bucket.put("f", b"content".to_vec());
    let (key, secret) = bucket.guest();
    let options = with(&bucket.options(), "aws_access_key_id", key);
    let options = with(&options, "aws_secret_access_key", secret);
    let (code, checkup, error) = check(&bucket.uri(), &options);
    assert_eq!(code, 0, "{checkup} {error}");
    let output = citius().args(["mount", "check", &bucket.uri(), "--write"]).args(&options).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(DENIED), "{error}");
    assert!(error.contains("write: ") && error.contains("denies access"), "{error}");
    assert!(error.contains("give these credentials the right, or use others"), "{error}");

    // A write that is refused is over: there is no lost request whose time would have to be waited out.
    let mount = format!("/data={}", bucket.uri());
    let options = options.iter().map(String::as_str);
    let local = Process::local(&["--mount", &mount].into_iter().chain(options).collect::<Vec<_>>());
    assert_eq!(local.text(&["cat", "/data/f"]), "content");
    let start = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    put(&small, b"x");
    let error = local.fails(4, &["cp", &format!("file:{}", small.display()), "/data/small"]);
    assert!(error.contains("/data/small") && error.contains("denies access"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let changes: [(&[&str], &str); 3] = [
        (&["rm", "/data/f"], "deleting"),
        (&["mv", "/data/f", "/data/g"], "renaming"),
        (&["mkdir", "/data/d"], "making"),
    ];
    for (change, doing) in changes {
        let error = local.fails(4, change);
        assert!(error.contains(change[1]) && error.contains(doing) && error.contains("denies access"), "{error}");
    }
    assert_eq!(local.text(&["cat", "/data/f"]), "content");
}

/// A server of OpenSSL that speaks nothing newer than TLS 1.1; it ends when this goes.
struct OldTls(Child);

impl OldTls {
    fn start(tls: &Tls) -> (Self, String) {
        let (certificate, key) = tls.server_files();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-cert"]);
        command.arg(certificate).arg("-key").arg(key);
        // It ends with its input, which is held open.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let port = lines.find_map(|line| Some(line.strip_prefix("ACCEPT 127.0.0.1:")?.to_owned()));
        let port = port.expect("it says where it listens");
        (Self(child), format!("https://127.0.0.1:{port}"))
    }
}

impl Drop for OldTls {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of servers that speak TLS and are not believed, each is told by its own words.
#[test]
fn who_is_not_believed_is_told_why() {
    let bucket = Prefix::new("tls");
    let (uri, options) = (bucket.uri(), bucket.options());
    let upstream = bucket.endpoint().strip_prefix("http://").unwrap();
    let at = |endpoint: &str| with(&options, "aws_endpoint", endpoint);
    let trusting = |tls: &Tls| with(&at(&tls.endpoint()), "ca_certificate_file", tls.ca_file().to_str().unwrap());
    let well = Tls::before(upstream, Certified::Well).unwrap();
    let (old, old_endpoint) = OldTls::start(&well);
    let of = |certified| Tls::before(upstream, certified).unwrap();
    let servers = [of(Certified::Before), of(Certified::Later), of(Certified::ForAnother), of(Certified::AsAuthority)];
    let [before, later, another, authority] = &servers;
    let causes = [
        (at(&well.endpoint()), "UnknownIssuer", "as ca_certificate_file"),
        (trusting(another), "elsewhere.example", "another host's"),
        (trusting(before), "expired", "have it renewed"),
        (trusting(later), "not valid yet", "has not begun"),
        (trusting(authority), "CaUsedAsEndEntity", "CA:FALSE"),
        (
            with(&at(&old_endpoint), "ca_certificate_file", well.ca_file().to_str().unwrap()),
            "ProtocolVersion",
            "TLS 1.2",
        ),
    ];
    for (flags, reason, advice) in &causes {
        let (step, words) = failure(DENIED, &uri, flags);
        assert_eq!(step, "network");
        assert!(words.contains("no safe connection to https://127.0.0.1:"), "{words}");
        assert!(words.contains(reason) && words.contains(advice), "{words}");
        let others = causes.iter().filter(|other| other.2 != *advice);
        assert!(others.into_iter().all(|other| !words.contains(other.2)), "{words}");
    }
    drop(old);
    // Whoever mounts it is told the same, by the same code.
    let local = Process::local(&[]);
    let arguments: Vec<_> = causes[0].0.iter().map(String::as_str).collect();
    let error = local.fails(DENIED, &[&["mount", "add", "/data", &uri], arguments.as_slice()].concat());
    assert!(error.contains("UnknownIssuer"), "{error}");
}

/// By the option, and by the variables and the profile that other programs are told by.
#[test]
fn an_authority_of_one_s_own_makes_a_server_trusted() {
    let bucket = Prefix::new("authority");
    let tls = Tls::before(bucket.endpoint().strip_prefix("http://").unwrap(), Certified::Well).unwrap();
    let (file, options) = (tls.ca_file(), with(&bucket.options(), "aws_endpoint", &tls.endpoint()));
    let file = file.to_str().unwrap();
    for name in ["ca_certificate_file", "aws_ca_bundle"] {
        let (code, checkup, error) = check(&bucket.uri(), &with(&options, name, file));
        assert_eq!((code, checkup["works"].as_bool()), (0, Some(true)), "{name}: {checkup} {error}");
    }
    for variable in ["AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
        let mut command = citius();
        command.args(["mount", "check", &bucket.uri(), "--write"]).args(&options).env(variable, file);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{variable}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let folder = tempfile::tempdir().unwrap();
    let keys = |name: &str| options.iter().find_map(|option| option.strip_prefix(&format!("{name}="))).unwrap();
    let (key, secret) = (keys("aws_access_key_id"), keys("aws_secret_access_key"));
    let profile = format!("[p]\naws_access_key_id={key}\naws_secret_access_key={secret}\nca_bundle={file}\n");
    put(folder.path().join("credentials"), profile.as_bytes());
    let mut command = citius();
    command.args(["mount", "check", &bucket.uri(), "--option", &format!("aws_endpoint={}", tls.endpoint())]);
    command.args(["--option", "aws_profile=p", "--option"]);
    command.arg(format!("aws_shared_credentials_file={}", folder.path().join("credentials").display()));
    let output = command.env_remove("AWS_CA_BUNDLE").output().unwrap();
    assert!(output.status.success(), "the profile: {}", String::from_utf8_lossy(&output.stderr));
    for (content, reason) in [(None, "No such file"), (Some(""), "holds no certificate"), (Some("-----BEGIN"), "")] {
        let bad = folder.path().join("ca.pem");
        if let Some(content) = content {
            put(&bad, content.as_bytes());
        }
        let flags = with(&options, "ca_certificate_file", bad.to_str().unwrap());
        let (step, words) = failure(USAGE, &bucket.uri(), &flags);
        assert_eq!(step, "settings");
        assert!(words.contains("ca_certificate_file") && words.contains("ca.pem") && words.contains(reason), "{words}");
    }
}

/// A real server, and a process whose clock is two hours ahead of it.
#[test]
fn a_clock_that_is_wrong_is_named() {
    let bucket = Prefix::new("clock");
    let mut command = Command::new("faketime");
    command.args(["-f", "+2h"]).arg(citius().get_program()).args(["--json", "mount", "check", &bucket.uri()]);
    let output = command.args(bucket.options()).output().expect("faketime is of the Debian package faketime");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(DENIED), "{error}");
    assert!(error.contains("refused the time of this machine") && error.contains("set the clock"), "{error}");
}

/// What this server does not say: the documents are Amazon's.
#[test]
fn amazon_s_refusals_are_understood() {
    let bucket = Prefix::new("refusals");
    let at = |answer: &'static str| {
        let endpoint = scripted(usize::MAX, move |_| answer.into()).unwrap();
        with(&bucket.options(), "aws_endpoint", &endpoint)
    };
    let moved = "HTTP/1.1 301 Moved Permanently\r\nconnection: close\r\nx-amz-bucket-region: eu-west-1\r\n\
                 content-length: 69\r\n\r\n<Error><Code>PermanentRedirect</Code><Message>moved</Message></Error>";
    let (step, words) = failure(USAGE, &bucket.uri(), &at(moved));
    assert_eq!(step, "place");
    assert!(words.contains("the bucket is in eu-west-1") && words.contains("set aws_region"), "{words}");
    let denied = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 60\r\n\r\n\
                  <Error><Code>AccessDenied</Code><Message>m</Message></Error>";
    let (step, words) = failure(DENIED, &bucket.uri(), &at(denied));
    assert_eq!(step, "list");
    assert!(words.contains("denies access") && words.contains("give these credentials the right"), "{words}");
    let skewed = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 68\r\n\r\n\
                  <Error><Code>RequestTimeTooSkewed</Code><Message>m</Message></Error>";
    let (step, words) = failure(DENIED, &bucket.uri(), &at(skewed));
    assert_eq!(step, "keys");
    assert!(words.contains("time of this machine") && words.contains("set the clock"), "{words}");
}

/// A real server that takes signatures for its own region alone.
#[cfg(feature = "more-servers")]
#[test]
fn a_wrong_region_is_named_by_a_real_server() {
    use citius_understore::testing::servers::Minio;

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Minio::start_in("eu-west-1")).unwrap();
    let spec = server.s3().mount("");
    let options = crate::support::flags(&spec);
    let (code, checkup, error) = check(&spec.uri, &options);
    assert_eq!((code, checkup["works"].as_bool()), (0, Some(true)), "{checkup} {error}");
    let (step, words) = failure(USAGE, &spec.uri, &with(&options, "aws_region", "us-east-1"));
    assert_eq!(step, "place");
    assert!(words.contains("not in region us-east-1") && words.contains("eu-west-1"), "{words}");
    assert!(words.contains("set aws_region"), "{words}");
}

#[test]
fn what_is_asked_wrongly_is_said() {
    let local = Process::local(&[]);
    for of_a_mount in ["--option=a=b", "--read-only"] {
        let error = local.fails(2, &["mount", "check", "/", of_a_mount]);
        assert!(error.contains("has its options already"), "{error}");
    }
}

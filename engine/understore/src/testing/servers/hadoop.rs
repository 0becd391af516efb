//! What servers of Hadoop's have in common: Java in little memory, settings in files, and a first folder by WebHDFS.

use std::{io, path::Path, process::Command};

use bytes::Bytes;
use http::Request;

use super::{
    http::{call, get},
    install::Installed,
};

/// The folder that tests may use.
pub(super) const FOLDER: &str = "/citius-test";
/// Whose it is.
pub(super) const USER: &str = "citius";
/// Who the name nodes run as, whose folder all others lie in.
pub(super) const SUPERUSER: &str = "hdfs";

/// Java in a server's folder, whose settings lie in `conf`; options of Java's, a class and what it is told follow.
pub(super) fn java(installed: &Installed, folder: &Path, heap_mib_max: u32) -> Command {
    let mut command = Command::new("java");
    command
        .arg(format!("-Xmx{heap_mib_max}m"))
        // Its life is shorter than what the second compiler's work would save.
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"])
        // WebHDFS reaches into what Java 17 has closed; Hadoop's own scripts open it too.
        .args(["--add-opens", "java.base/java.lang=ALL-UNNAMED"])
        .arg(format!("-Dlog4j.configuration=file:{}", installed.folder.join("log4j.properties").display()))
        // Else its web servers, and Java itself, leave folders beside everybody's temporary files.
        .args([format!("-Djava.io.tmpdir={}", folder.display()), "-XX:-UsePerfData".to_owned()])
        .arg(format!("-DHADOOP_USER_NAME={SUPERUSER}"))
        .arg("-cp")
        .arg(format!("{}:{}", folder.join("conf").display(), installed.folder.join("jars/*").display()));
    command
}

/// Writes what servers and clients are to find in their folder of settings.
pub(super) fn configure(conf: &Path, settings: &[(&str, String)]) -> io::Result<()> {
    std::fs::create_dir(conf)?;
    let property =
        |(name, value): &(&str, String)| format!("<property><name>{name}</name><value>{value}</value></property>\n");
    // Hadoop's own values of what begins with `dfs.` go before those of the other file.
    for (file, is_dfs) in [("core-site.xml", false), ("hdfs-site.xml", true)] {
        let of_file = settings.iter().filter(|(name, _)| name.starts_with("dfs.") == is_dfs);
        let properties: String = of_file.map(property).collect();
        std::fs::write(conf.join(file), format!("<configuration>\n{properties}</configuration>\n"))?;
    }
    Ok(())
}

/// Makes the folder, which takes a name node that is active and out of safe mode.
pub(super) async fn make_folder(web: &str) -> io::Result<()> {
    put(&format!("{web}/webhdfs/v1{FOLDER}?op=MKDIRS&user.name={SUPERUSER}")).await?;
    put(&format!("{web}/webhdfs/v1{FOLDER}?op=SETOWNER&owner={USER}&user.name={SUPERUSER}")).await
}

async fn put(uri: &str) -> io::Result<()> {
    let answer = call(Request::put(uri).body(Bytes::new()).map_err(io::Error::other)?).await?;
    if answer.status().is_success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(answer.body()).into_owned();
    Err(io::Error::other(format!("{uri} is answered by {}: {why}", answer.status())))
}

/// Whether a name node says of itself, under one of its names, what is expected.
pub(super) async fn says(web: &str, name: &str, expected: &str) -> io::Result<()> {
    let answer = get(&format!("{web}/jmx?qry=Hadoop:service=NameNode,name={name}")).await?;
    let said = String::from_utf8_lossy(answer.body());
    if said.contains(expected) { Ok(()) } else { Err(io::Error::other(format!("{name} lacks {expected}: {said}"))) }
}

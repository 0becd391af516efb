//! Apache's WebDAV: `mod_dav_fs` on a folder, for one user with a password.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{
    fresh,
    guard::{Guard, Walls},
    http::get,
    install::{Installed, install},
    ports::Ports,
    server::{Processes, Server},
};

const USER: &str = "citius";
const SERVES_AS: &str = "www-data";
/// Where Debian's apache2-bin has its modules.
const MODULES_FOLDER: &str = "/usr/lib/apache2/modules";
const MODULES: &[&str] =
    &["mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "dav", "dav_fs"];

/// A running Apache with one folder.
#[derive(Debug)]
pub struct Webdav {
    guard: Guard,
    folder: TempDir,
    installed: Installed,
    ports: Ports<1>,
    password: String,
}

impl Webdav {
    /// Starts it, with a password of its own.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer; with the end of its log.
    pub async fn start() -> io::Result<Self> {
        let installed = install("webdav").await?;
        let folder = fresh::folder("webdav")?;
        let ports = Ports::take()?;
        let password = fresh::key()?;
        configure(folder.path(), ports[0], &password)?;
        let guard = launch(folder.path())?;
        let mut webdav = Self { guard, folder, installed, ports, password };
        webdav.wait().await?;
        Ok(webdav)
    }

    /// The folder's URL, without a slash at the end.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// User and password, of HTTP's basic authentication.
    pub fn keys(&self) -> (&'static str, &str) {
        (USER, &self.password)
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.installed.version
    }

    /// Ends it by SIGKILL and starts it again with the same port, password and data.
    ///
    /// # Errors
    /// As [`Webdav::start`].
    pub async fn restart(&mut self) -> io::Result<()> {
        self.guard.end();
        // A killed Apache leaves its own process id, which is another's now.
        std::fs::remove_file(self.folder.path().join("pid"))?;
        self.guard = launch(self.folder.path())?;
        self.wait().await
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process of it is left.
    pub fn stop(mut self) -> io::Result<()> {
        self.guard.stop()
    }

    async fn wait(&mut self) -> io::Result<()> {
        let endpoint = self.endpoint();
        self.guard.ready(async || get(&endpoint).await).await?;
        Ok(())
    }
}

impl Server for Webdav {
    fn processes(&self) -> Processes<'_> {
        Processes(vec![&self.guard])
    }
}

fn configure(folder: &Path, port: u16, password: &str) -> io::Result<()> {
    let (served, locks) = (folder.join("served"), folder.join("locks"));
    std::fs::create_dir(&served)?;
    std::fs::create_dir(&locks)?;
    // A random secret of 160 bits needs no salt.
    let hashed = fresh::openssl(&["passwd", "-apr1", "-salt", "citius", password])?;
    std::fs::write(folder.join("users"), [USER.as_bytes(), b":", &hashed].concat())?;
    let mut conf = String::new();
    for module in MODULES {
        conf += &format!("LoadModule {module}_module {MODULES_FOLDER}/mod_{module}.so\n");
    }
    if rustix::process::geteuid().is_root() {
        // Apache started by root serves as another user, who must get at these two and no more.
        fresh::made_by(Command::new("chown").arg(SERVES_AS).args([&served, &locks]))?;
        std::fs::set_permissions(folder, Permissions::from_mode(0o711))?;
        conf += &format!("User {SERVES_AS}\nGroup {SERVES_AS}\n");
    }
    let conf_file = conf_of(folder);
    let folder = folder.display();
    conf += &format!(
        r#"
ServerRoot {folder}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {folder}/pid
DefaultRuntimeDir {folder}
ErrorLog {folder}/apache.log
StartServers 1
ServerLimit 2
MaxRequestWorkers 50
DocumentRoot {folder}/served
DavLockDB {folder}/locks/locks
<Directory {folder}/served>
    Dav On
    AuthType Basic
    AuthName citius
    AuthUserFile {folder}/users
    Require valid-user
</Directory>
"#
    );
    std::fs::write(conf_file, conf)
}

fn conf_of(folder: &Path) -> PathBuf {
    folder.join("apache.conf")
}

fn launch(folder: &Path) -> io::Result<Guard> {
    let mut command = Command::new("apache2");
    command.args(["-D", "FOREGROUND", "-f"]).arg(conf_of(folder));
    Guard::start(folder, "apache", Walls::PROCESSES, &command)
}

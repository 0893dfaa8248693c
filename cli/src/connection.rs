//! Where NATS is and who we are there, from flags, the environment and `nats` contexts. Reads files, opens no
//! connection. Precedence, for each setting by itself: flag, environment, context, default. Ways to log in exclude each
//! other, so the first source that names one decides.

use crate::error::Failure;
use anyhow::Context as _;
use lattice_nats::ConnectOptions;
use serde::Deserialize;
use std::path::{Path, PathBuf};

pub const DEFAULT_URL: &str = "nats://127.0.0.1:4222";

/// The NATS options of the command line, as NATS users know them. Secrets may stand in the environment, where `ps` does
/// not show them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "NATS connection (each also by environment, or from a nats context)")]
pub struct NatsArgs {
    /// NATS servers, separated by commas [env: LATTICE_NATS_URL, NATS_URL] [default: nats://127.0.0.1:4222]
    #[arg(long = "nats", visible_alias = "server", value_name = "URL", global = true)]
    pub url: Option<String>,
    /// Credentials file: JWT and key of a user [env: NATS_CREDS]
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    pub creds: Option<PathBuf>,
    /// File with an nkey seed (SU…) [env: NATS_NKEY]
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    pub nkey: Option<PathBuf>,
    /// User name [env: NATS_USER]
    #[arg(long, value_name = "NAME", global = true, hide_short_help = true)]
    pub user: Option<String>,
    /// Password; better by environment, where other users can't see it [env: NATS_PASSWORD]
    #[arg(long, value_name = "TEXT", global = true, hide_short_help = true)]
    pub password: Option<String>,
    /// Token; better by environment, where other users can't see it [env: NATS_TOKEN]
    #[arg(long, value_name = "TEXT", global = true, hide_short_help = true)]
    pub token: Option<String>,
    /// CA certificates that the server must be signed by [env: NATS_CA]
    #[arg(long = "tlsca", value_name = "FILE", global = true, hide_short_help = true)]
    pub tls_ca: Option<PathBuf>,
    /// Certificate to show to the server [env: NATS_CERT]
    #[arg(long = "tlscert", value_name = "FILE", global = true, hide_short_help = true)]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate [env: NATS_KEY]
    #[arg(long = "tlskey", value_name = "FILE", global = true, hide_short_help = true)]
    pub tls_key: Option<PathBuf>,
    /// Settings saved with `nats context add`; without any other setting the selected one is used [env: NATS_CONTEXT]
    #[arg(long = "nats-context", value_name = "NAME", global = true, hide_short_help = true)]
    pub context: Option<String>,
}

/// The outside that settings come from; a test puts its own in place.
pub struct Surroundings<'a> {
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// `$XDG_CONFIG_HOME`, usually `~/.config`.
    pub config_home: Option<PathBuf>,
    pub home: Option<PathBuf>,
}

/// An environment variable that is set, not empty and text.
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Surroundings<'static> {
    pub fn of_process() -> Self {
        let home = env("HOME").map(PathBuf::from);
        let config_home = env("XDG_CONFIG_HOME").map(PathBuf::from).or(home.as_ref().map(|home| home.join(".config")));
        Self { env: &|name| env(name), config_home, home }
    }
}

/// A way to log in.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    Creds(PathBuf),
    NkeyFile(PathBuf),
    Password { user: String, password: String },
    Token(String),
}

impl Login {
    /// Its name, without its secret.
    fn kind(&self) -> &'static str {
        match self {
            Login::Creds(_) => "credentials file",
            Login::NkeyFile(_) => "nkey",
            Login::Password { .. } => "user and password",
            Login::Token(_) => "token",
        }
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())
    }
}

/// Settings of one source, or of all together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Without user names and passwords: those are in `login`.
    pub servers: Vec<String>,
    pub login: Option<Login>,
    pub tls_ca: Option<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// Which sources contributed, for people: `--nats`, `context prod`.
    pub origin: Vec<String>,
}

impl Settings {
    fn is_empty(&self) -> bool {
        let Self { servers, login, tls_ca, tls_cert, tls_key, origin: _ } = self;
        servers.is_empty() && login.is_none() && tls_ca.is_none() && tls_cert.is_none() && tls_key.is_none()
    }

    /// What is missing here is taken from `lower`.
    fn or(mut self, lower: Settings) -> Settings {
        let mut used = false;
        if self.servers.is_empty() && !lower.servers.is_empty() {
            self.servers = lower.servers;
            used = true;
        }
        for (mine, other) in
            [(&mut self.tls_ca, lower.tls_ca), (&mut self.tls_cert, lower.tls_cert), (&mut self.tls_key, lower.tls_key)]
        {
            if mine.is_none() && other.is_some() {
                *mine = other;
                used = true;
            }
        }
        if self.login.is_none() && lower.login.is_some() {
            self.login = lower.login;
            used = true;
        }
        if used {
            self.origin.extend(lower.origin);
        }
        self
    }

    /// Settings as they stand in one source, user names in URLs taken out.
    fn from_source(origin: &str, raw: Raw) -> anyhow::Result<Settings> {
        let mut servers = Vec::new();
        let mut login = raw.login()?;
        for url in raw.url.iter().flat_map(|urls| urls.split(',')).map(str::trim).filter(|url| !url.is_empty()) {
            let (server, in_url) = split_url(url)?;
            servers.push(server);
            login = login.or(in_url);
        }
        let mut settings = Settings {
            servers,
            login,
            tls_ca: raw.tls_ca,
            tls_cert: raw.tls_cert,
            tls_key: raw.tls_key,
            origin: Vec::new(),
        };
        if !settings.is_empty() {
            settings.origin.push(origin.to_owned());
        }
        Ok(settings)
    }

    /// One line for people, without secrets.
    pub fn summary(&self) -> String {
        let login = self.login.as_ref().map_or("no login", Login::kind);
        let origin = if self.origin.is_empty() { "default".to_owned() } else { self.origin.join(", ") };
        format!("{} ({login}; from {origin})", self.servers.join(", "))
    }

    /// What lattice-nats wants. Reads the nkey's file.
    pub fn into_options(self, name: &str) -> anyhow::Result<ConnectOptions> {
        let tls_required = self.tls_ca.is_some() || self.tls_cert.is_some();
        let mut options = ConnectOptions {
            servers: self.servers,
            tls_ca: self.tls_ca,
            tls_cert: self.tls_cert,
            tls_key: self.tls_key,
            tls_required,
            name: name.to_owned(),
            ..ConnectOptions::default()
        };
        match self.login {
            None => {}
            Some(Login::Creds(path)) => {
                if !path.is_file() {
                    return Err(no_file("credentials file", &path));
                }
                options.credentials = Some(path);
            }
            Some(Login::NkeyFile(path)) => options.nkey_seed = Some(read_seed(&path)?),
            Some(Login::Password { user, password }) => {
                options.user = Some(user);
                options.password = Some(password);
            }
            Some(Login::Token(token)) => options.token = Some(token),
        }
        Ok(options)
    }
}

fn no_file(what: &str, path: &Path) -> anyhow::Error {
    Failure::usage(format!("the {what} {} is not there", path.display())).into()
}

fn read_seed(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read the nkey {}", path.display()))?;
    text.lines().map(str::trim).find(|line| line.starts_with('S') && line.len() == 58).map(str::to_owned).ok_or_else(
        || {
            Failure::usage(format!("{} holds no nkey seed", path.display()))
                .hint("a user's seed starts with SU and is 58 characters long")
                .into()
        },
    )
}

/// One source as it was written.
#[derive(Default)]
struct Raw {
    url: Option<String>,
    creds: Option<PathBuf>,
    nkey: Option<PathBuf>,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

impl Raw {
    fn login(&self) -> anyhow::Result<Option<Login>> {
        let password = self.password.clone().unwrap_or_default();
        let ways: Vec<Login> = [
            self.creds.clone().map(Login::Creds),
            self.nkey.clone().map(Login::NkeyFile),
            self.user.clone().map(|user| Login::Password { user, password }),
            self.token.clone().map(Login::Token),
        ]
        .into_iter()
        .flatten()
        .collect();
        if let [first, second, ..] = ways.as_slice() {
            let message = format!("two ways to log in to NATS at once: {} and {}", first.kind(), second.kind());
            return Err(Failure::usage(message).hint("give one of --creds, --nkey, --user or --token").into());
        }
        Ok(ways.into_iter().next())
    }
}

/// `nats://user:pass@host:4222` and `nats://token@host` into the plain URL and the login.
fn split_url(url: &str) -> anyhow::Result<(String, Option<Login>)> {
    let bad = |why: &str| {
        Failure::usage(format!("{:?} is not a NATS URL: {why}", url.rsplit('@').next().unwrap_or_default()))
            .hint("write nats://host:4222")
    };
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme @ ("nats" | "tls" | "ws" | "wss"), rest)) => (scheme, rest),
        Some((scheme, _)) => return Err(bad(&format!("{scheme} is not one of nats, tls, ws, wss")).into()),
        None => ("nats", url),
    };
    let (user_info, host) = match rest.rsplit_once('@') {
        Some((user_info, host)) => (Some(user_info), host),
        None => (None, rest),
    };
    if host.is_empty() || host.starts_with(':') {
        return Err(bad("the host is missing").into());
    }
    let login = match user_info.map(|info| info.split_once(':').ok_or(info)) {
        None => None,
        Some(Ok((user, password))) => {
            Some(Login::Password { user: percent_decode(user), password: percent_decode(password) })
        }
        Some(Err(token)) => Some(Login::Token(percent_decode(token))),
    };
    Ok((format!("{scheme}://{host}"), login))
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|&byte| char::from(byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A context as `nats context add` saves it (ADR-21). Other fields belong to the nats CLI.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContextFile {
    url: String,
    token: String,
    user: String,
    password: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    nsc: String,
    user_jwt: String,
}

fn read_context(name: &str, around: &Surroundings<'_>) -> anyhow::Result<Settings> {
    let dir = around.config_home.as_ref().map(|dir| dir.join("nats").join("context"));
    let no_such = |dir: &Path| {
        let known = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut known: Vec<String> =
            known.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned())).collect();
        known.sort();
        let known =
            if known.is_empty() { "there is none".to_owned() } else { format!("there are: {}", known.join(", ")) };
        Failure::usage(format!("no nats context {name:?} in {}", dir.display()))
            .hint(format!("{known}; `nats context add {name}` makes one"))
    };
    let Some(dir) = dir else {
        return Err(Failure::usage("no nats contexts: neither XDG_CONFIG_HOME nor HOME is set").into());
    };
    if name.contains(['/', '\\']) || name.starts_with('.') {
        return Err(Failure::usage(format!("{name:?} is not the name of a nats context")).into());
    }
    let path = dir.join(format!("{name}.json"));
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(no_such(&dir).into()),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    let file: ContextFile = serde_json::from_slice(&text)
        .with_context(|| Failure::usage(format!("{} is not a nats context", path.display())))?;
    for (field, value) in [("nsc", &file.nsc), ("user_jwt", &file.user_jwt)] {
        if !value.is_empty() {
            let message = format!("the nats context {name:?} uses `{field}`, which is not supported here");
            return Err(Failure::usage(message).hint("point the context, or --creds, to a credentials file").into());
        }
    }
    let text = |value: String| Some(value).filter(|value| !value.is_empty());
    let path = |value: String| {
        text(value).map(|value| match (value.strip_prefix("~/"), &around.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(value),
        })
    };
    let raw = Raw {
        url: text(file.url),
        creds: path(file.creds),
        nkey: path(file.nkey),
        user: text(file.user),
        password: text(file.password),
        token: text(file.token),
        tls_ca: path(file.ca),
        tls_cert: path(file.cert),
        tls_key: path(file.key),
    };
    Settings::from_source(&format!("nats context {name}"), raw)
}

fn selected_context(around: &Surroundings<'_>) -> Option<String> {
    let path = around.config_home.as_ref()?.join("nats").join("context.txt");
    let name = std::fs::read_to_string(path).ok()?.trim().to_owned();
    Some(name).filter(|name| !name.is_empty())
}

/// Settings in force.
pub fn resolve(args: &NatsArgs, around: &Surroundings<'_>) -> anyhow::Result<Settings> {
    let flags = Raw {
        url: args.url.clone(),
        creds: args.creds.clone(),
        nkey: args.nkey.clone(),
        user: args.user.clone(),
        password: args.password.clone(),
        token: args.token.clone(),
        tls_ca: args.tls_ca.clone(),
        tls_cert: args.tls_cert.clone(),
        tls_key: args.tls_key.clone(),
    };
    // `--user` on the command line and its password in the environment belong together.
    let password_from_env = if flags.user.is_some() { (around.env)("NATS_PASSWORD") } else { None };
    let flags = Raw { password: flags.password.clone().or(password_from_env), ..flags };
    let path = |name: &str| (around.env)(name).map(PathBuf::from);
    let environment = Raw {
        url: (around.env)("LATTICE_NATS_URL").or_else(|| (around.env)("NATS_URL")),
        creds: path("NATS_CREDS"),
        nkey: path("NATS_NKEY"),
        user: (around.env)("NATS_USER"),
        password: (around.env)("NATS_PASSWORD"),
        token: (around.env)("NATS_TOKEN"),
        tls_ca: path("NATS_CA"),
        tls_cert: path("NATS_CERT"),
        tls_key: path("NATS_KEY"),
    };
    let given = Settings::from_source("flags", flags)?.or(Settings::from_source("environment", environment)?);
    let context = match args.context.clone().or_else(|| (around.env)("NATS_CONTEXT")) {
        Some(name) => read_context(&name, around)?,
        None if given.is_empty() => match selected_context(around) {
            Some(name) => read_context(&name, around)?,
            None => Settings::default(),
        },
        None => Settings::default(),
    };
    let mut settings = given.or(context);
    if settings.servers.is_empty() {
        settings.servers.push(DEFAULT_URL.to_owned());
    }
    if settings.tls_cert.is_some() != settings.tls_key.is_some() {
        return Err(Failure::usage("a client certificate needs its key").hint("give --tlscert and --tlskey").into());
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Exit, exit_of};
    use std::collections::BTreeMap;

    struct Case {
        dir: tempfile::TempDir,
        env: BTreeMap<&'static str, String>,
        args: NatsArgs,
    }

    impl Case {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), env: BTreeMap::new(), args: NatsArgs::default() }
        }
        fn env(mut self, name: &'static str, value: &str) -> Self {
            self.env.insert(name, value.into());
            self
        }
        fn context(self, name: &str, json: &str) -> Self {
            let dir = self.dir.path().join("nats/context");
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(format!("{name}.json")), json).unwrap();
            self
        }
        fn select(self, name: &str) -> Self {
            std::fs::create_dir_all(self.dir.path().join("nats")).unwrap();
            std::fs::write(self.dir.path().join("nats/context.txt"), format!("{name}\n")).unwrap();
            self
        }
        fn url(mut self, url: &str) -> Self {
            self.args.url = Some(url.into());
            self
        }
        fn resolve(&self) -> anyhow::Result<Settings> {
            let env = |name: &str| self.env.get(name).cloned();
            let config_home = Some(self.dir.path().to_owned());
            resolve(&self.args, &Surroundings { env: &env, config_home, home: Some("/home/me".into()) })
        }
        fn servers(&self) -> Vec<String> {
            self.resolve().unwrap().servers
        }
    }

    const PROD: &str = r#"{"description": "p", "url": "nats://ctx:1,nats://ctx:2", "creds": "~/p.creds", "ca": "/ca"}"#;

    #[test]
    fn flag_before_environment_before_context_before_default() {
        let case = Case::new();
        assert_eq!(case.servers(), [DEFAULT_URL]);
        let case = case.context("prod", PROD).select("prod");
        assert_eq!(case.servers(), ["nats://ctx:1", "nats://ctx:2"]);
        let case = case.env("NATS_URL", "nats://env:1");
        assert_eq!(case.servers(), ["nats://env:1"]);
        let case = case.env("LATTICE_NATS_URL", "env:2");
        assert_eq!(case.servers(), ["nats://env:2"]);
        let case = case.url("tls://flag:1, flag:2");
        assert_eq!(case.servers(), ["tls://flag:1", "nats://flag:2"]);
    }

    #[test]
    fn the_selected_context_counts_only_when_nothing_else_is_given() {
        let settings = Case::new().context("prod", PROD).select("prod").url("nats://flag:1").resolve().unwrap();
        assert_eq!((settings.login, settings.tls_ca), (None, None));
        let named = Case::new().context("prod", PROD).env("NATS_CONTEXT", "prod").url("nats://flag:1");
        let settings = named.resolve().unwrap();
        assert_eq!(settings.servers, ["nats://flag:1"]);
        assert_eq!(settings.login, Some(Login::Creds("/home/me/p.creds".into())));
        assert_eq!(settings.tls_ca, Some("/ca".into()));
        assert_eq!(settings.origin, ["flags", "nats context prod"]);
    }

    #[test]
    fn urls_carry_logins() {
        let login = |url: &str| Case::new().url(url).resolve().unwrap();
        let settings = login("nats://me:s%40cret@host:4222");
        assert_eq!(settings.servers, ["nats://host:4222"]);
        assert_eq!(settings.login, Some(Login::Password { user: "me".into(), password: "s@cret".into() }));
        assert_eq!(login("nats://t0ken@host").login, Some(Login::Token("t0ken".into())));
        assert!(!settings.summary().contains("s@cret"), "{}", settings.summary());
        assert!(!format!("{settings:?}").contains("s@cret"));
        let over_env = Case::new().env("NATS_TOKEN", "other").url("nats://t0ken@host").resolve().unwrap();
        assert_eq!(over_env.login, Some(Login::Token("t0ken".into())));
    }

    #[test]
    fn one_way_to_log_in_of_the_first_source_that_has_one() {
        let mut case = Case::new().env("NATS_USER", "me").env("NATS_PASSWORD", "pw");
        let password = |user: &str| Some(Login::Password { user: user.into(), password: "pw".into() });
        assert_eq!(case.resolve().unwrap().login, password("me"));
        case.args.user = Some("you".into());
        assert_eq!(case.resolve().unwrap().login, password("you"));
        case.args.user = None;
        case.args.creds = Some("/c".into());
        assert_eq!(case.resolve().unwrap().login, Some(Login::Creds("/c".into())));
        case.args.token = Some("t".into());
        assert_eq!(exit_of(&case.resolve().unwrap_err()), Exit::Usage);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for url in ["http://host", "nats://", "nats://me@", ":4222"] {
            assert_eq!(exit_of(&Case::new().url(url).resolve().unwrap_err()), Exit::Usage, "{url}");
        }
        let missing = Case::new().context("prod", PROD).env("NATS_CONTEXT", "pord").resolve().unwrap_err();
        let text = crate::error::render(&missing, crate::output::Paint::off());
        assert!(text.contains("no nats context \"pord\"") && text.contains("there are: prod"), "{text}");
        for (name, json) in [("../x", "{}"), ("a", "["), ("a", r#"{"nsc": "nsc://o/a/u"}"#)] {
            let case = Case::new().context("a", json).env("NATS_CONTEXT", name);
            assert_eq!(exit_of(&case.resolve().unwrap_err()), Exit::Usage, "{name} {json}");
        }
        let mut half = Case::new();
        half.args.tls_cert = Some("/cert".into());
        assert_eq!(exit_of(&half.resolve().unwrap_err()), Exit::Usage);
    }

    #[test]
    fn options_carry_the_secret_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user.nk");
        let seed = format!("SU{}", "A".repeat(56));
        std::fs::write(&path, format!("# user\n{seed}\n")).unwrap();
        let with = |path: PathBuf| Settings { login: Some(Login::NkeyFile(path)), ..Settings::default() };
        assert_eq!(with(path).into_options("x").unwrap().nkey_seed, Some(seed));
        std::fs::write(dir.path().join("empty.nk"), "").unwrap();
        assert!(with(dir.path().join("empty.nk")).into_options("x").is_err());
        let creds = Settings { login: Some(Login::Creds("/not/there".into())), ..Settings::default() };
        assert_eq!(exit_of(&creds.into_options("x").unwrap_err()), Exit::Usage);
    }
}

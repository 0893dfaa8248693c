//! A child process whose output is kept and that never outlives the tests.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::VecDeque,
    ffi::OsString,
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, mpsc},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::watch;

const LINES_KEPT: usize = 4_000;
/// Set, this has passed tests print the logs of their processes too (with `--show-output`).
const SHOW_LOGS: &str = "LATTICE_TEST_LOGS";
/// Lines of each process that a failed test prints.
const LINES_SHOWN: usize = 60;

pub struct Process {
    name: String,
    pid: u32,
    lines: watch::Sender<VecDeque<String>>,
    output: watch::Sender<VecDeque<String>>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Start a program. It dies with this process even if that is killed.
    pub fn start<A: Into<OsString>>(name: &str, program: &Path, arguments: impl IntoIterator<Item = A>) -> Self {
        Self::start_with(name, program, arguments, |_| {})
    }

    pub fn start_with<A: Into<OsString>>(
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        adapt: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lattice"));
        command.args(["__with-parent", &std::process::id().to_string(), "--"]).arg(program);
        command.args(arguments.into_iter().map(Into::into));
        // Nothing of the developer's own surroundings may decide a test.
        for variable in ["NATS_URL", "LATTICE", "LATTICE_NODE_ID", "LATTICE_HTTP", "LATTICE_ADMIN", "LATTICE_DATA"] {
            command.env_remove(variable);
        }
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OTEL_")) {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        adapt(&mut command);
        let mut child = spawn(command).unwrap_or_else(|error| panic!("can't start {name}: {error}"));

        let lines = watch::Sender::new(VecDeque::new());
        let output = watch::Sender::new(VecDeque::new());
        let readers = [
            read_lines(child.stdout.take().unwrap(), vec![lines.clone(), output.clone()]),
            read_lines(child.stderr.take().unwrap(), vec![lines.clone()]),
        ];
        let (ended, exit) = watch::channel(None);
        let pid = child.id();
        std::thread::spawn(move || {
            let status = child.wait().ok();
            // Its last words were written, and may not have been read yet. A child of its own may keep the pipes open.
            for _ in 0..500 {
                if readers.iter().all(JoinHandle::is_finished) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            ended.send_replace(status);
        });
        Self { name: name.to_owned(), pid, lines, output, exit }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    pub fn signal(&self, signal: Signal) {
        if self.is_running()
            && let Some(pid) = Pid::from_raw(i32::try_from(self.pid).unwrap())
        {
            kill_process(pid, signal).ok(); // it may be gone already
        }
    }

    /// `kill -9`, and wait until it is gone.
    pub async fn kill9(&self) {
        self.signal(Signal::KILL);
        self.wait_exit(Duration::from_secs(10)).await;
    }

    pub async fn wait_exit(&self, limit: Duration) -> ExitStatus {
        let mut exit = self.exit.clone();
        let ended = tokio::time::timeout(limit, exit.wait_for(Option::is_some)).await;
        let ended = ended.unwrap_or_else(|_| panic!("{} still runs after {} s", self.name, limit.as_secs()));
        ended.unwrap().unwrap()
    }

    /// The first line that contains a text, once there is one. Panics if the process ends without it.
    pub async fn wait_line(&self, text: &str, limit: Duration) -> String {
        let mut lines = self.lines.subscribe();
        let find = |lines: &VecDeque<String>| lines.iter().find(|line| line.contains(text)).cloned();
        let mut exit = self.exit.clone();
        let found = tokio::time::timeout(limit, async {
            tokio::select! {
                biased;
                _ = lines.wait_for(|lines| find(lines).is_some()) => {}
                _ = exit.wait_for(Option::is_some) => {}
            }
        });
        found.await.unwrap_or_else(|_| panic!("{} did not say {text:?} within {} s", self.name, limit.as_secs()));
        find(&self.lines.borrow())
            .unwrap_or_else(|| panic!("{} ended without saying {text:?}:\n{}", self.name, self.log()))
    }

    /// Standard output and standard error.
    pub fn log(&self) -> String {
        joined(&self.lines.borrow())
    }

    /// Standard output alone.
    pub fn output(&self) -> String {
        joined(&self.output.borrow())
    }

    /// The end of the log, for the report of a failed test.
    pub fn show(&self) {
        let lines = self.lines.borrow();
        eprintln!("--- {} (pid {}), last of {} lines", self.name, self.pid, lines.len());
        for line in lines.iter().skip(lines.len().saturating_sub(LINES_SHOWN)) {
            eprintln!("{line}");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os(SHOW_LOGS).is_some() {
            self.show();
        }
        self.signal(Signal::KILL);
    }
}

/// The kernel kills a child with the *thread* that started it, and each test has a thread of its own: so one thread that
/// stays starts them all.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, answered) = mpsc::channel();
    SPAWNER.lock().unwrap().send((command, answer)).unwrap();
    answered.recv().unwrap()
}

fn joined(lines: &VecDeque<String>) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{line}");
        text
    })
}

fn read_lines(from: impl Read + Send + 'static, to: Vec<watch::Sender<VecDeque<String>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            for sink in &to {
                sink.send_modify(|lines| {
                    if lines.len() == LINES_KEPT {
                        lines.pop_front();
                    }
                    lines.push_back(String::from_utf8_lossy(&line).into_owned());
                });
            }
        }
    })
}

/// Counters of the kernel for a process, in KiB: `VmRSS`, `VmHWM`.
#[cfg(target_os = "linux")]
pub fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// Makes the high-water mark of a process its present size.
#[cfg(target_os = "linux")]
pub fn reset_high_water(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// Used by tests that must see that no process is left.
pub fn is_alive(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie waits for its parent only.
    !state.is_empty() && !state.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
}

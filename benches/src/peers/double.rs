//! A double of Firecracker's API, for the tests of its driver alone: it takes the same requests in
//! the same order, makes files, and calls as the beacon does. There is no machine in it, and it is
//! slow by known lengths of time.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// The test that is the double, when it is run by the script with this variable.
const ARGUMENTS: &str = "TINE_DOUBLE_ARGUMENTS";
/// Names its directory in the environment of its processes.
const MARK: &str = "TINE_DOUBLE_IN";
const SELF: &str = "peers::double::the_program";

/// An installed double.
pub struct Double {
    directory: TempDir,
}

impl Double {
    /// Until it listens.
    pub const START: Duration = Duration::from_millis(30);
    /// Until a machine is loaded.
    pub const LOAD: Duration = Duration::from_millis(40);
    /// After that, until it calls.
    pub const FIRST: Duration = Duration::from_millis(20);
    /// Until a snapshot is written.
    pub const CREATE: Duration = Duration::from_millis(50);

    /// A program in a directory of its own, which is run with `variables`.
    pub fn install(variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let variables: String =
            variables.iter().map(|(name, value)| format!("{name}='{value}' ")).collect();
        let program = std::env::current_exe().unwrap();
        let script = format!(
            "#!/bin/sh\nexec env {variables} {MARK}='{}' {ARGUMENTS}=\"$*\" '{}' {SELF} --exact --nocapture\n",
            directory.path().display(),
            program.display()
        );
        let double = Self { directory };
        std::fs::write(double.program(), script).unwrap();
        std::fs::set_permissions(double.program(), PermissionsExt::from_mode(0o755)).unwrap();
        double
    }

    pub fn program(&self) -> PathBuf {
        self.directory.path().join("firecracker")
    }

    /// How many processes of it there are.
    pub fn processes(&self) -> usize {
        let of_this = |entry: std::io::Result<std::fs::DirEntry>| {
            let environment = std::fs::read(entry.ok()?.path().join("environ")).ok()?;
            let mark = format!("{MARK}={}", self.directory.path().display());
            String::from_utf8_lossy(&environment).contains(&mark).then_some(())
        };
        std::fs::read_dir("/proc").unwrap().filter_map(of_this).count()
    }
}

/// Not a test, but the program, when the script above runs it.
#[test]
fn the_program() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let of = |name: &str| {
        let place = arguments.iter().position(|argument| *argument == name).unwrap();
        Path::new(arguments[place + 1])
    };
    std::thread::sleep(Double::START);
    let refuses = std::env::var("TINE_DOUBLE_REFUSES").unwrap_or_default();
    if refuses == "listen" {
        std::process::exit(1);
    }
    let listener = UnixListener::bind(of("--api-sock")).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let log = std::fs::File::options().append(true).open(of("--log-path")).unwrap();
    serve(stream, log, &refuses);
}

#[derive(PartialEq)]
enum State {
    New,
    Running,
    Paused,
}

fn serve(stream: std::os::unix::net::UnixStream, mut log: std::fs::File, refuses: &str) {
    let calls = Arc::new(AtomicBool::new(false));
    let mut state = State::New;
    let mut configured = Vec::new();
    let mut answers = stream.try_clone().unwrap();
    let mut requests = BufReader::new(stream);
    while let Some((line, body)) = request(&mut requests) {
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let taken = match (&line[..], &state) {
            (line, _) if line.contains(refuses) && !refuses.is_empty() => {
                writeln!(log, "the double refuses").unwrap();
                false
            }
            ("PUT /machine-config", State::New) => {
                configured.push("machine");
                body["vcpu_count"] == 1 && body["mem_size_mib"].is_u64()
            }
            ("PUT /boot-source", State::New) => {
                configured.push("boot");
                std::fs::read(text("kernel_image_path"))
                    .is_ok_and(|file| file == tine_beacon::elf())
            }
            ("PUT /actions", State::New) if configured == ["machine", "boot"] => {
                state = State::Running;
                call(&calls, Duration::ZERO);
                text("action_type") == "InstanceStart"
            }
            ("PATCH /vm", State::Running) if text("state") == "Paused" => {
                calls.store(false, Ordering::SeqCst);
                state = State::Paused;
                true
            }
            ("PATCH /vm", State::Paused) if text("state") == "Resumed" => {
                call(&calls, Duration::ZERO);
                state = State::Running;
                true
            }
            ("PUT /snapshot/create", State::Paused) if text("snapshot_type") == "Full" => {
                std::thread::sleep(Double::CREATE);
                ["snapshot_path", "mem_file_path"]
                    .iter()
                    .all(|key| std::fs::write(text(key), "the double's").is_ok())
            }
            ("PUT /snapshot/load", State::New) if body["resume_vm"] == true => {
                std::thread::sleep(Double::LOAD);
                let memory = &body["mem_backend"];
                let files =
                    [text("snapshot_path"), memory["backend_path"].as_str().unwrap().into()];
                call(&calls, Double::FIRST);
                state = State::Running;
                memory["backend_type"] == "File"
                    && files.iter().all(|file| std::fs::read(file).unwrap() == b"the double's")
            }
            _ => false,
        };
        let fault = r#"{"fault_message":"the double does not take that now"}"#;
        let answer = match taken {
            true => "HTTP/1.1 204 No Content\r\nServer: a double\r\n\r\n".to_owned(),
            false => format!("HTTP/1.1 400 \r\nContent-Length: {}\r\n\r\n{fault}", fault.len()),
        };
        answers.write_all(answer.as_bytes()).unwrap();
    }
    // As Firecracker does, it goes on without a client, until it is killed.
    loop {
        std::thread::park();
    }
}

/// Method and path, and the body, of the next request.
fn request(stream: &mut impl BufRead) -> Option<(String, Value)> {
    let mut length = 0;
    let mut first = None;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => {
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    length = value.parse().unwrap();
                }
                first.get_or_insert_with(|| line.trim_end_matches(" HTTP/1.1").to_owned());
            }
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first?, serde_json::from_slice(&body).unwrap_or_default()))
}

/// Calls as the beacon does, `after` that time and until it is to stop.
fn call(calls: &Arc<AtomicBool>, after: Duration) {
    calls.store(true, Ordering::SeqCst);
    let calls = Arc::clone(calls);
    std::thread::spawn(move || {
        std::thread::sleep(after);
        while calls.load(Ordering::SeqCst) {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&tine_beacon::CALL).and_then(|()| stdout.flush()).unwrap();
            drop(stdout);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

//! The programs as people use them: `tine run`, and the daemon with its clients.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The program under test: where it was built, or, in a virtual host, on the path.
pub fn tine() -> Command {
    let built = Path::new(env!("CARGO_BIN_EXE_tine"));
    Command::new(if built.exists() { built } else { Path::new("tine") })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

/// Runs `tine` with `arguments`.
fn run(arguments: &[&str]) -> Output {
    tine().args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn run_passes_output_and_exit_code_through() {
    let output = run(&["run", "base", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(text(&output.stdout), "out", "{output:?}");
    assert_eq!(text(&output.stderr), "err");
    assert_eq!(output.status.code(), Some(3));
    let killed = run(&["run", "base", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137));
    let late = run(&["run", "base", "--timeout", "1", "--", "sleep", "60"]);
    assert_eq!(late.status.code(), Some(124), "{late:?}");
    let environment =
        run(&["run", "base", "-e", "A=b c", "-w", "/tmp", "--", "sh", "-c", "echo $A $PWD"]);
    assert_eq!(text(&environment.stdout), "b c /tmp");
}

#[test]
fn run_passes_input_through() {
    let mut child = tine()
        .args(["run", "-i", "base", "--", "md5sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let data = vec![7; 3_000_000];
    child.stdin.take().unwrap().write_all(&data).unwrap();
    let output = child.wait_with_output().unwrap();
    // md5sum of 3,000,000 bytes of 7.
    let mut expected =
        Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    expected.stdin.take().unwrap().write_all(&data).unwrap();
    assert_eq!(text(&output.stdout), text(&expected.wait_with_output().unwrap().stdout));
}

#[test]
fn what_can_not_be_run_is_told() {
    let nothing = run(&["run", "base", "--", "no-such-program"]);
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
    assert!(text(&nothing.stderr).contains("no-such-program"), "{nothing:?}");
    let image = run(&["run", "no-such-image", "--", "true"]);
    assert!(text(&image.stderr).contains("no-such-image"), "{image:?}");
    let small = run(&["run", "base", "--memory", "16", "--", "true"]);
    assert!(!small.status.success() && text(&small.stderr).contains("RAM"), "{small:?}");
}

/// A daemon of its own; killed when dropped.
pub struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
}

impl Daemon {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let mut child = tine()
            .args(["serve", "--listen", &format!("unix:{}", socket.display())])
            .arg("--token-file")
            .arg(directory.path().join("token"))
            .args(["--overcommit", "16", "--state"])
            .arg(directory.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the daemon ended");
        }
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, directory }
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = tine();
        command
            .env("TINE_SERVER", format!("unix:{}", self.directory.path().join("socket").display()))
            .env("TINE_TOKEN_FILE", self.directory.path().join("token"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb, which must succeed. Returns its output.
    pub fn ask(&self, arguments: &[&str]) -> String {
        let output = self.client(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text(&output.stdout)
    }

    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.client(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        text(&output.stderr)
    }

    fn spawn(&self) -> String {
        let answer = self.ask(&["spawn", "--image", "base", "--json"]);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let sandbox = &answer["results"][0]["sandbox"];
        assert!(sandbox["ladder"]["ready"].as_f64().unwrap() > 0.0, "{answer}");
        sandbox["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn the_daemon_runs_programs_and_forks_what_they_did() {
    let daemon = Daemon::start();
    let id = daemon.spawn();
    assert_eq!(daemon.ask(&["exec", &id, "--", "hostname"]), id);
    daemon.ask(&["exec", &id, "--", "sh", "-c", "echo before > /root/note"]);
    let children = daemon.ask(&["fork", &id, "--count", "2", "--json"]);
    let children: serde_json::Value = serde_json::from_str(&children).unwrap();
    for child in children["results"].as_array().unwrap() {
        let child = child["sandbox"]["id"].as_str().unwrap_or_else(|| panic!("{children}"));
        assert_eq!(daemon.ask(&["exec", child, "--", "cat", "/root/note"]), "before");
        assert_eq!(daemon.ask(&["exec", child, "--", "hostname"]), child);
    }
    let code = daemon.client(&["exec", &id, "--", "sh", "-c", "exit 7"]).status().unwrap();
    assert_eq!(code.code(), Some(7));
    assert!(daemon.fails(&["exec", &id, "--", "nothing-there"]).contains("nothing-there"));
    let refused = daemon.fails(&["workload", &id, "checksum"]);
    assert!(refused.contains("Linux guest"), "{refused}");
    daemon.ask(&["reset", &id]);
    assert_eq!(daemon.ask(&["exec", &id, "--", "sh", "-c", "ls /root/note || echo gone"]), "gone");
    // How that command ends is a matter of who is first.
    let _off = daemon.client(&["exec", &id, "--", "poweroff", "-f"]).output().unwrap();
    assert!(daemon.ask(&["ps", "--json"]).contains("ended"));
}

#[test]
fn files_go_in_and_out() {
    let daemon = Daemon::start();
    let id = daemon.spawn();
    let tree = daemon.file("tree");
    fs::create_dir_all(tree.join("deep")).unwrap();
    let large: Vec<u8> = (0..5_000_000u32).map(|byte| (byte % 251) as u8).collect();
    fs::write(tree.join("deep/large"), &large).unwrap();
    fs::write(tree.join("small"), "a little").unwrap();
    let there = format!("{id}:/root");
    daemon.ask(&["cp", tree.to_str().unwrap(), &there]);
    assert_eq!(daemon.ask(&["exec", &id, "--", "cat", "/root/tree/small"]), "a little");
    let back = daemon.file("back");
    daemon.ask(&["cp", &format!("{id}:/root/tree"), back.to_str().unwrap()]);
    assert_eq!(fs::read(back.join("deep/large")).unwrap(), large);
    assert!(daemon.ask(&["ls", &format!("{id}:/root/tree")]).contains("deep/"));
    assert_eq!(daemon.ask(&["cp", &format!("{id}:/root/tree/small"), "-"]), "a little");
    let missing = daemon.fails(&["cp", &format!("{id}:/root/none"), "-"]);
    assert!(missing.contains("/root/none"), "{missing}");
    assert!(!daemon.file("none").exists());
}

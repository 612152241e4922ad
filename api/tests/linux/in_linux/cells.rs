//! Each sandbox of the daemon in a cell of its own, forked live by process.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A daemon of its own; killed when dropped.
struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
}

fn tine() -> Command {
    let built = Path::new(env!("CARGO_BIN_EXE_tine"));
    Command::new(if built.exists() { built } else { Path::new("tine") })
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = tine()
            .args(["serve", "--listen"])
            .arg(format!("unix:{}", directory.path().join("socket").display()))
            .arg("--token-file")
            .arg(directory.path().join("token"))
            .args(["--overcommit", "16", "--state"])
            .arg(directory.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let serves = log.by_ref().lines().any(|line| line.unwrap().contains("serving"));
        assert!(serves, "the daemon ended");
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, directory }
    }

    /// Runs a verb, which must succeed. Returns its output.
    fn ask(&self, arguments: &[&str]) -> String {
        let output = tine()
            .env("TINE_SERVER", format!("unix:{}", self.directory.path().join("socket").display()))
            .env("TINE_TOKEN_FILE", self.directory.path().join("token"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn sh(&self, id: &str, script: &str) -> String {
        self.ask(&["exec", id, "--", "sh", "-c", script])
    }

    /// Ids and processes of the sandboxes that `arguments` make.
    fn make(&self, arguments: &[&str]) -> Vec<(String, u64)> {
        let answer: serde_json::Value = serde_json::from_str(&self.ask(arguments)).unwrap();
        let made = answer["results"].as_array().unwrap().iter().map(|result| {
            let sandbox = &result["sandbox"];
            let id = sandbox["id"].as_str().unwrap_or_else(|| panic!("{answer}"));
            (id.to_owned(), sandbox["pid"].as_u64().unwrap_or_else(|| panic!("{answer}")))
        });
        made.collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn forks_by_process_share_what_was_and_are_sandboxes_of_their_own() {
    let daemon = Daemon::start();
    let mut all = daemon.make(&["spawn", "--image", "base", "--json"]);
    let first = all[0].0.clone();
    daemon.sh(&first, "mkdir /t && mount -t tmpfs none /t && echo shared > /t/file");
    all.extend(daemon.make(&["fork", &first, "--count", "2", "--json"]));
    // The second time from a child.
    let child = all[1].0.clone();
    all.extend(daemon.make(&["fork", &child, "--count", "1", "--json"]));
    for (id, _) in &all {
        assert_eq!(daemon.sh(id, "cat /t/file"), "shared");
        assert_eq!(daemon.sh(id, "hostname"), *id);
        daemon.sh(id, "echo $(hostname) > /t/file");
    }
    let mut seen = std::collections::BTreeSet::new();
    for (id, pid) in &all {
        assert_eq!(daemon.sh(id, "cat /t/file"), *id, "each has its own by now");
        assert!(seen.insert(daemon.sh(id, "cat /proc/sys/kernel/random/uuid")), "{id}");
        assert!(seen.insert(pid.to_string()), "{id}: a process has two sandboxes");
        for kind in ["user", "mnt", "ipc", "net", "uts", "pid"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{id}: {kind}");
        }
    }
}

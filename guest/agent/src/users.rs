//! Who is who, by /etc/passwd and /etc/group. The C library's own look-up loads shared
//! objects, which a static program can't.

use std::fs;
use std::io;

use nix::unistd::{Gid, Uid};
use tine_abi::agent::Failure;

use crate::failure::os;

/// What a program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name; the number when it has none.
    pub name: String,
    /// User.
    pub uid: Uid,
    /// Primary group.
    pub gid: Gid,
    /// All groups, the primary one among them.
    pub groups: Vec<Gid>,
    /// Home directory.
    pub home: String,
}

impl Identity {
    /// The identity of `user`, by name or number, with `:group` after it if its primary group
    /// shall be another. A number need not be known.
    ///
    /// # Errors
    ///
    /// `NotFound` for a name that is not known; `Os` when the files can't be read.
    pub fn find(user: &str) -> Result<Self, Failure> {
        parse(user, &read("/etc/passwd")?, &read("/etc/group")?)
            .ok_or_else(|| Failure::NotFound(format!("user {user}")))
    }
}

/// The file's contents; nothing when an image comes without it.
fn read(path: &str) -> Result<String, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(os(format!("reading {path}"), error)),
    }
}

fn parse(user: &str, passwd: &str, group: &str) -> Option<Identity> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let mut identity = entry(user, passwd).or_else(|| unknown(user))?;
    if let Some(wanted) = wanted_group {
        identity.gid = group_number(wanted, group)?;
    }
    identity.groups = memberships(&identity, group);
    Some(identity)
}

/// `name:password:uid:gid:comment:home:shell`. A name goes before a number.
fn entry(user: &str, passwd: &str) -> Option<Identity> {
    let entries = || passwd.lines().filter_map(passwd_line);
    let number = user.parse().ok().map(Uid::from_raw);
    entries()
        .find(|entry| entry.name == user)
        .or_else(|| entries().find(|entry| Some(entry.uid) == number))
}

fn passwd_line(line: &str) -> Option<Identity> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1).filter(|home| !home.is_empty()).unwrap_or("/");
    Some(Identity {
        name: name.into(),
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(gid),
        groups: Vec::new(),
        home: home.into(),
    })
}

/// Root needs no entry, and neither has a number one: its group is that of the same number.
fn unknown(user: &str) -> Option<Identity> {
    let number = match user {
        "root" => 0,
        _ => user.parse().ok()?,
    };
    Some(Identity {
        name: user.into(),
        uid: Uid::from_raw(number),
        gid: Gid::from_raw(number),
        groups: Vec::new(),
        home: "/".into(),
    })
}

/// `name:password:gid:member,member`.
fn group_lines(group: &str) -> impl Iterator<Item = (&str, Gid, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, Gid::from_raw(gid), fields.next().unwrap_or("")))
    })
}

fn group_number(wanted: &str, group: &str) -> Option<Gid> {
    group_lines(group)
        .find(|(name, ..)| *name == wanted)
        .map(|(_, gid, _)| gid)
        .or_else(|| wanted.parse().ok().map(Gid::from_raw))
}

fn memberships(identity: &Identity, group: &str) -> Vec<Gid> {
    let mut groups = vec![identity.gid];
    for (_, gid, members) in group_lines(group) {
        if members.split(',').any(|member| member == identity.name) && !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        # a comment\n\
        broken:x:one:1\n\
        web:x:33:34:Web,,,:/var/www:/usr/sbin/nologin\n\
        nohome:x:40:40::\n\
        33:x:99:99::/odd:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:web\nssl:x:50:mail,web\nmail:x:8\nnot:x:9:webx\n";

    fn find(user: &str) -> Option<Identity> {
        parse(user, PASSWD, GROUP)
    }

    #[test]
    fn a_name_comes_with_its_groups_and_home() {
        let web = find("web").unwrap();
        assert_eq!((web.uid, web.gid), (Uid::from_raw(33), Gid::from_raw(34)));
        assert_eq!(web.groups, [34, 50].map(Gid::from_raw));
        assert_eq!(web.home, "/var/www");
        assert_eq!(find("nohome").unwrap().home, "/");
    }

    #[test]
    fn a_number_finds_its_entry_unless_it_is_a_name() {
        assert_eq!(find("0").unwrap().name, "root");
        assert_eq!(find("33").unwrap().uid, Uid::from_raw(99));
        let stranger = find("1234").unwrap();
        assert_eq!((stranger.uid, stranger.gid), (Uid::from_raw(1234), Gid::from_raw(1234)));
        assert_eq!((stranger.name.as_str(), stranger.home.as_str()), ("1234", "/"));
    }

    #[test]
    fn a_group_may_be_given() {
        assert_eq!(find("web:mail").unwrap().groups, [8, 34, 50].map(Gid::from_raw));
        assert_eq!(find("web:7").unwrap().gid, Gid::from_raw(7));
        assert_eq!(find("web:nobody"), None);
    }

    #[test]
    fn unknown_names_are_not_found_but_root_always_is() {
        assert_eq!(find("nobody"), None);
        assert_eq!(find("broken"), None);
        assert_eq!(find(""), None);
        assert_eq!(parse("root", "", "").unwrap().uid, Uid::from_raw(0));
    }

    proptest! {
        #[test]
        fn any_files_are_read(user: String, passwd: String, group: String) {
            let _ = parse(&user, &passwd, &group);
        }
    }
}

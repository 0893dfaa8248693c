//! What the server lets this user do, by its own account of it (`$SYS.REQ.USER.INFO`). A subject that is denied shows
//! nowhere else but as silence.

use super::Check;
use crate::client::Client;
use bytes::Bytes;
use lattice::{
    id::LatticeId,
    limits::CTL_TIMEOUT,
    store::{Bucket, Headers},
    subject,
};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
struct UserInfo {
    data: Option<UserData>,
}

#[derive(Debug, Default, Deserialize)]
struct UserData {
    #[serde(default)]
    user: String,
    permissions: Option<Permissions>,
}

/// None on either side means: everything.
#[derive(Debug, Default, Deserialize)]
struct Permissions {
    publish: Option<Rules>,
    subscribe: Option<Rules>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rules {
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
}

impl Rules {
    /// True if all subjects that `needed` stands for may be used.
    fn allow(&self, needed: &str) -> bool {
        let allowed = self.allow.as_ref().is_none_or(|allow| allow.iter().any(|rule| covers(rule, needed)));
        let denied = self.deny.iter().flatten().any(|rule| covers(rule, needed) || covers(needed, rule));
        allowed && !denied
    }
}

/// True if the pattern matches every subject that `needed` (which may have wildcards) matches.
fn covers(pattern: &str, needed: &str) -> bool {
    // A queue subscription's rule may name the queue behind a space.
    let pattern = pattern.split(' ').next().unwrap_or(pattern);
    let mut needed = needed.split('.');
    for token in pattern.split('.') {
        match (token, needed.next()) {
            (">", Some(_)) => return true,
            ("*", Some(">")) | (_, None) => return false,
            ("*", Some(_)) => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    needed.next().is_none()
}

/// What this program, and what a node, publishes and subscribes to.
fn needed(lattice: &LatticeId) -> [(&'static str, Vec<String>, Vec<String>); 2] {
    let artifacts = format!("$O.{}.>", subject::artifacts_name(lattice));
    let inbox = || "_INBOX.>".to_owned();
    let client = vec![subject::ctl_all(lattice), artifacts.clone(), "$JS.API.>".into()];
    let mut node = vec![format!("lattice.{lattice}.>"), artifacts, "$JS.API.>".into(), inbox()];
    node.extend(Bucket::ALL.map(|bucket| format!("$KV.{}.>", subject::bucket_name(lattice, bucket))));
    node.push(format!("$KV.{}.>", subject::secrets_name(lattice)));
    [
        ("this program", client, vec![inbox()]),
        ("a node", node, vec![format!("lattice.{lattice}.>"), "$SRV.>".into(), inbox()]),
    ]
}

pub(super) async fn check(client: &Client) -> Check {
    let what = "permissions";
    let request = client.bus().request("$SYS.REQ.USER.INFO".into(), Headers::new(), Bytes::new(), CTL_TIMEOUT);
    let info = match request.await {
        Ok(reply) => serde_json::from_slice::<UserInfo>(&reply.payload).unwrap_or_default().data,
        Err(_) => None,
    };
    let Some(info) = info else {
        let remedy = "allow $SYS.REQ.USER.INFO and _INBOX.> to have them checked";
        return Check::doubtful(what, "the server does not tell", remedy);
    };
    judge(what, &info, &client.lattice)
}

fn judge(what: &'static str, info: &UserData, lattice: &LatticeId) -> Check {
    // The server hides a token behind a word in brackets.
    let user = if info.user.is_empty() || info.user.starts_with('[') { "this user" } else { &info.user };
    let Some(permissions) = &info.permissions else { return Check::good(what, format!("{user} may use any subject")) };
    for (who, publish, subscribe) in needed(lattice) {
        let missing = |rules: &Option<Rules>, subjects: &[String]| {
            let lacking = |subject: &&String| rules.as_ref().is_some_and(|rules| !rules.allow(subject));
            subjects.iter().filter(lacking).cloned().collect::<Vec<_>>()
        };
        let publish = missing(&permissions.publish, &publish);
        let subscribe = missing(&permissions.subscribe, &subscribe);
        if publish.is_empty() && subscribe.is_empty() {
            continue;
        }
        let list = |word: &str, subjects: &[String]| match subjects {
            [] => None,
            subjects => Some(format!("{word} {}", subjects.join(" "))),
        };
        let lacking: Vec<String> =
            [list("publish", &publish), list("subscribe", &subscribe)].into_iter().flatten().collect();
        let seen = format!("{user} lacks what {who} needs: {}", lacking.join("; "));
        // A user for people need not be able to run a node.
        return if who == "a node" {
            Check::doubtful(what, seen, "enough for commands; allow these too where this user runs nodes")
        } else {
            Check::bad(what, seen, "allow these in the server's configuration or the user's JWT")
        };
    }
    Check::good(what, format!("{user} may use every subject that commands and nodes need"))
}

#[cfg(test)]
mod tests {
    use super::{super::Grade, *};

    #[test]
    fn patterns_cover_what_they_match() {
        for (pattern, needed, covered) in [
            (">", "a.>", true),
            ("a.>", "a.b.>", true),
            ("a.>", "a.>", true),
            ("a.*", "a.>", false),
            ("a.*", "a.*", true),
            ("a.b", "a.*", false),
            ("*.b", "a.b", true),
            ("a.b.c", "a.b", false),
            ("a.b", "a.b.c", false),
            ("a.> queue", "a.b", true),
        ] {
            assert_eq!(covers(pattern, needed), covered, "{pattern} {needed}");
        }
    }

    fn grade(json: &str) -> Grade {
        let data: UserData = serde_json::from_str(json).unwrap();
        judge("permissions", &data, &LatticeId::new("default").unwrap()).grade
    }

    #[test]
    fn what_is_missing_decides() {
        assert_eq!(grade(r#"{"user": "me"}"#), Grade::Good);
        assert_eq!(grade(r#"{"permissions": {"publish": {"allow": [">"]}}}"#), Grade::Good);
        assert_eq!(grade(r#"{"permissions": {"publish": {"allow": ["lattice.>"]}}}"#), Grade::Bad);
        assert_eq!(
            grade(r#"{"permissions": {"publish": {"deny": ["lattice.default.ctl.workload.put"]}}}"#),
            Grade::Bad
        );
        let person = r#"{"permissions": {"publish": {"allow": ["lattice.default.ctl.>", "$O.>", "$JS.API.>"]}}}"#;
        assert_eq!(grade(person), Grade::Doubtful);
    }
}

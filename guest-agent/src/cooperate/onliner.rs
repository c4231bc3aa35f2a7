//! Carries out `set_online_cpus`, a CPU at a time, so that the loop goes on in between.

use super::cpus::{CpuError, Cpus};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;
use vmtide_protocol::agent::{Reply, ReplyStatus};
use vmtide_protocol::bridge::SetOnlineCpus;

/// Nobody waits longer.
const LONGEST: Duration = Duration::from_secs(60);

/// Changes how many CPUs are online, one request at a time.
#[derive(Debug)]
pub struct Onliner {
    cpus: Cpus,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    id: u64,
    wanted: u32,
    began_with: u32,
    deadline: Instant,
}

impl Onliner {
    /// For the guest below `root`; what is changed is noted in `folder`. What an agent that was killed took comes back.
    pub fn new(root: &Path, folder: &Path) -> Self {
        Self { cpus: Cpus::open(root, folder), open: None }
    }

    /// Whether this guest has CPUs that can come and go.
    pub fn is_able(&self) -> bool {
        self.cpus.can_change()
    }

    /// Begins; the reply comes from [`Self::reply`], or at once when the request is refused.
    pub fn begin(&mut self, request: SetOnlineCpus) -> Option<Reply> {
        let SetOnlineCpus { id, cpus: wanted, deadline_ms } = request;
        let looked = self.cpus.look().and_then(|()| self.cpus.online());
        let began_with = match looked {
            Err(error) => return Some(reply(id, ReplyStatus::Refused, 0, Some(error.to_string()))),
            Ok(online) => online,
        };
        let refusal = match (wanted, self.open) {
            (0, _) => "0 CPUs cannot be; CPU 0 stays",
            (_, Some(_)) => "an earlier request is still being carried out",
            (_, None) => {
                let deadline = Instant::now() + Duration::from_millis(deadline_ms).min(LONGEST);
                self.open = Some(Open { id, wanted, began_with, deadline });
                return None;
            }
        };
        Some(reply(id, ReplyStatus::Refused, began_with, Some(refusal.to_owned())))
    }

    /// The reply to the request that was begun. Dropping the future loses nothing.
    pub async fn reply(&mut self) -> Reply {
        let Some(open) = self.open else { return std::future::pending().await };
        loop {
            if let Some(reply) = self.step(open) {
                self.open = None;
                let (id, status, detail) = (reply.id, reply.status, reply.detail.as_deref().unwrap_or_default());
                tracing::info!(id, ?status, wanted = open.wanted, "asked for other CPUs: {detail}");
                return reply;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Brings back what was taken offline; nobody gets a reply.
    pub fn stop(&mut self) {
        self.open = None;
        self.cpus.restore();
    }

    /// One CPU more or less; the reply when that was the last.
    fn step(&mut self, open: Open) -> Option<Reply> {
        let online = match self.cpus.online() {
            Ok(online) => online,
            Err(error) => return Some(reply(open.id, ReplyStatus::Refused, 0, Some(error.to_string()))),
        };
        if online == open.wanted {
            return Some(reply(open.id, ReplyStatus::Done, online, None));
        }
        let stepped = if Instant::now() >= open.deadline {
            Ok(Err("the deadline".to_owned()))
        } else if online < open.wanted {
            self.cpus.add_one()
        } else {
            self.cpus.take_one()
        };
        let why = match stepped {
            Ok(Ok(())) => return None,
            Ok(Err(why)) => why,
            Err(error @ (CpuError::File { .. } | CpuError::List { .. })) => error.to_string(),
        };
        let status = if online == open.began_with { ReplyStatus::Refused } else { ReplyStatus::Partial };
        Some(reply(open.id, status, online, Some(why)))
    }
}

fn reply(id: u64, status: ReplyStatus, online: u32, detail: Option<String>) -> Reply {
    Reply { id, status, amount: u64::from(online).into(), detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::write;
    use tempfile::TempDir;

    fn guest(online: &str) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [("present", "0-1\n"), ("possible", "0-1\n"), ("online", online), ("cpu1/online", "?")] {
            write(root.path(), &format!("sys/devices/system/cpu/{name}"), text);
        }
        root
    }

    fn request(cpus: u32, deadline_ms: u64) -> SetOnlineCpus {
        SetOnlineCpus { id: 5, cpus, deadline_ms }
    }

    async fn asked(online: &str, cpus: u32, deadline_ms: u64) -> (ReplyStatus, Reply) {
        let root = guest(online);
        let mut onliner = Onliner::new(root.path(), root.path());
        let reply = match onliner.begin(request(cpus, deadline_ms)) {
            Some(reply) => reply,
            None => onliner.reply().await,
        };
        (reply.status, reply)
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_with_the_reason() {
        for (online, cpus, deadline_ms, status, detail) in [
            ("0-1\n", 2, 0, ReplyStatus::Done, None),
            ("0-1\n", 0, 1_000, ReplyStatus::Refused, Some("0 CPUs cannot be")),
            ("0-1\n", 1, 0, ReplyStatus::Refused, Some("the deadline")),
            ("0-1\n", 8, 1_000, ReplyStatus::Refused, Some("there are 2 CPUs")),
            ("0\n", 2, 1_000, ReplyStatus::Refused, Some("taken offline by somebody else")),
            ("none\n", 2, 1_000, ReplyStatus::Refused, Some("is no list of CPUs")),
        ] {
            let (found, reply) = asked(online, cpus, deadline_ms).await;
            assert_eq!(found, status, "{cpus}: {reply:?}");
            match detail {
                None => assert_eq!(reply.detail, None),
                Some(part) => assert!(reply.detail.unwrap().contains(part), "{cpus}"),
            }
        }
    }

    #[tokio::test]
    async fn a_second_request_waits_for_nobody() {
        let root = guest("0-1\n");
        let mut onliner = Onliner::new(root.path(), root.path());
        assert!(onliner.is_able());
        assert_eq!(onliner.begin(request(1, 60_000)), None);
        let refused = onliner.begin(request(2, 60_000)).unwrap();
        assert_eq!((refused.status, refused.amount), (ReplyStatus::Refused, 2.into()));
    }
}

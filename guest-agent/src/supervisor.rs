//! What the agent tells systemd, or whoever else started it and listens where `NOTIFY_SOCKET` says: that it is ready, how it
//! stands, that it still runs, that it stops. Without a listener nothing is said and nothing waits.
//!
//! The protocol is sd_notify(3): a datagram of `KEY=value` lines.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// Who started the agent.
#[derive(Debug, Default)]
pub struct Supervisor {
    listener: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that the agent runs, and when it has to next.
    watchdog: Option<(Duration, Instant)>,
}

impl Supervisor {
    /// The one that the environment names.
    pub fn from_environment() -> Self {
        let var = |name| std::env::var_os(name);
        let number = |name| var(name)?.to_str()?.parse::<u64>().ok();
        let Some(address) = var("NOTIFY_SOCKET") else { return Self::default() };
        // The watchdog may be meant for another process that inherited the variables.
        let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog_us = number("WATCHDOG_USEC").filter(|_| mine);
        Self::at(&address, watchdog_us).unwrap_or_else(|error| {
            warn!("NOTIFY_SOCKET={}: {error}", address.display());
            Self::default()
        })
    }

    fn at(address: &OsStr, watchdog_us: Option<u64>) -> io::Result<Self> {
        let address = match address.as_bytes() {
            // Linux' abstract names are written so.
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // Twice in the time that is allowed, so that one delay is no end.
        let watchdog = watchdog_us.filter(|&us| us > 0).map(|us| (Duration::from_micros(us / 2), Instant::now()));
        Ok(Self { listener: Some((socket, address)), watchdog })
    }

    /// The agent works.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// In a line for `systemctl status`.
    pub fn stands(&self, text: &str) {
        self.say(&format!("STATUS={}", text.lines().next().unwrap_or_default()));
    }

    /// The agent ends, because it was asked to.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// Says that the agent still runs when that has to be said, and returns; else waits. Dropping the future loses nothing.
    pub async fn watched(&mut self) {
        let Some((every, next)) = &mut self.watchdog else { return std::future::pending().await };
        sleep_until(*next).await;
        *next = Instant::now() + *every;
        self.say("WATCHDOG=1");
    }

    /// Who does not take it can ask `vmtide-agent status`.
    fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.listener {
            socket.send_to_addr(text.as_bytes(), address).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Listener(UnixDatagram);

    impl Listener {
        fn hears(&self) -> Option<String> {
            let mut text = [0; 256];
            let length = self.0.recv(&mut text).ok()?;
            Some(String::from_utf8(text[..length].to_vec()).unwrap())
        }
    }

    fn listener(address: &SocketAddr) -> Listener {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Listener(socket)
    }

    #[tokio::test(start_paused = true)]
    async fn says_what_it_is_told_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("vmtide-test-{}", std::process::id());
        for (address, written) in [
            (SocketAddr::from_pathname(&path).unwrap(), path.display().to_string()),
            (SocketAddr::from_abstract_name(&name).unwrap(), format!("@{name}")),
        ] {
            let listener = listener(&address);
            let supervisor = Supervisor::at(OsStr::new(&written), None).unwrap();
            supervisor.ready();
            supervisor.stands("connected\nMAINPID=1");
            supervisor.stopping();
            let heard = [listener.hears(), listener.hears(), listener.hears(), listener.hears()];
            let expected = [Some("READY=1"), Some("STATUS=connected"), Some("STOPPING=1"), None];
            assert_eq!(heard.each_ref().map(Option::as_deref), expected, "{written}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn feeds_the_watchdog_twice_in_its_time_and_never_without_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = listener(&SocketAddr::from_pathname(&path).unwrap());
        let mut supervisor = Supervisor::at(path.as_os_str(), Some(10_000_000)).unwrap();
        let began = Instant::now();
        for second in [0, 5, 10] {
            supervisor.watched().await;
            assert_eq!((began.elapsed().as_secs(), listener.hears().as_deref()), (second, Some("WATCHDOG=1")));
        }
        for unwatched in [None, Some(0)] {
            let mut unwatched = Supervisor::at(path.as_os_str(), unwatched).unwrap();
            assert!(tokio::time::timeout(Duration::from_secs(3_600), unwatched.watched()).await.is_err());
        }
    }

    #[test]
    fn nobody_who_listens_is_no_error_and_no_address_is() {
        Supervisor::default().ready();
        Supervisor::at(OsStr::new("/no/such/socket"), None).unwrap().ready();
        assert!(Supervisor::at(OsStr::new(&"x".repeat(200)), None).is_err());
    }
}

//! Real hybrid sockets: files, modes and clean-up.

use super::*;
use crate::guests::{Events, Guests, ListenError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

fn vms(folder: &Path) -> Vec<VmConfig> {
    ["a", "b"].map(|name| vm(name, Address::Hybrid(folder.join(name)))).into()
}

async fn listen(folder: &Path) -> Result<(Guests, Events), ListenError> {
    Guests::listen(&vms(folder), Intervals::default()).await
}

fn socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}_7670"))
}

#[tokio::test]
async fn the_socket_tells_the_vm_and_stop_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (guests, mut events) = listen(folder.path()).await.unwrap();
    let path = socket(folder.path(), "b");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777 & !0o660, 0, "less the umask of the tests");

    guests.set_allocation(1, allocation(MIB));
    let mut agent = Agent::new(UnixStream::connect(&path).await.unwrap());
    agent.greet().await;
    assert!(matches!(events.next().await, (1, GuestEvent::Connected(_))));
    let request = BridgeMessage::PauseTuning(vmtide_protocol::bridge::PauseTuning { id: 1, pause_ms: 0 });
    assert!(guests.request(1, request.clone()));
    assert!(!guests.request(0, request.clone()), "nobody is connected");
    assert_eq!(agent.receive().await, Some(request));

    guests.stop().await;
    assert_eq!(agent.rejected().await, Some(RejectReason::Stopping));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_socket_that_a_dead_bridge_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket(folder.path(), "a");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (guests, _events) = listen(folder.path()).await.unwrap();
    Agent::new(UnixStream::connect(&path).await.unwrap()).greet().await;
    guests.stop().await;
}

/// Time stands still, so this takes none: a look each second, for a minute.
async fn greets(path: &Path) -> bool {
    for _ in 0..60 {
        if let Ok(stream) = UnixStream::connect(path).await {
            let mut agent = Agent::new(stream);
            agent.send(HELLO).await;
            if matches!(agent.receive().await, Some(BridgeMessage::Welcome(_))) {
                return true;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    false
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_cannot_be_made_is_one_vms_problem_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, c) = (socket(folder.path(), "a"), socket(folder.path(), "b"), folder.path().join("later/c"));
    let other = std::os::unix::net::UnixListener::bind(&a).unwrap();
    let mut vms = vms(folder.path());
    vms.push(vm("c", Address::Hybrid(c.clone())));
    let (guests, _events) = Guests::listen(&vms, Intervals::default()).await.unwrap();
    Agent::new(UnixStream::connect(&b).await.unwrap()).greet().await;

    drop(other);
    assert!(greets(&a).await, "once the other process is gone");
    std::fs::remove_file(&b).unwrap();
    std::fs::write(&b, "precious").unwrap();
    std::fs::create_dir(folder.path().join("later")).unwrap();
    assert!(greets(&socket(c.parent().unwrap(), "c")).await, "once its folder is there");
    guests.stop().await;
    assert_eq!(std::fs::read_to_string(&b).unwrap(), "precious");
    assert!(!a.exists() && !socket(c.parent().unwrap(), "c").exists());
}

#[tokio::test(start_paused = true)]
async fn a_socket_whose_folder_was_made_anew_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let (guests, _events) = listen(&run).await.unwrap();
    std::fs::remove_dir_all(&run).unwrap();
    std::fs::create_dir(&run).unwrap();
    assert!(greets(&socket(&run, "a")).await && greets(&socket(&run, "b")).await);
    guests.stop().await;
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 0);
}

#[tokio::test]
async fn a_reconnect_storm_is_held_off() {
    let folder = tempfile::tempdir().unwrap();
    let (guests, _events) = listen(folder.path()).await.unwrap();
    let path = socket(folder.path(), "a");
    let mut held_off = 0;
    for _ in 0..20 {
        let mut agent = Agent::new(UnixStream::connect(&path).await.unwrap());
        agent.send(HELLO).await;
        held_off += u32::from(agent.receive().await.is_none());
    }
    assert!(held_off >= 10, "{held_off} of 20");
    assert_eq!(guests.take_refused(), u64::from(held_off), "all counted");
    assert_eq!(guests.take_refused(), 0, "once");
    guests.stop().await;
}

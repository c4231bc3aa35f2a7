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
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);

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

#[tokio::test]
async fn a_live_socket_and_any_other_file_stay_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket(folder.path(), "b");
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = listen(folder.path()).await.unwrap_err();
    assert!(matches!(&error, ListenError::InUse(at) if *at == path), "{error}");
    assert!(!socket(folder.path(), "a").exists(), "what was bound before is released");

    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let error = listen(folder.path()).await.unwrap_err();
    assert!(matches!(&error, ListenError::NotASocket(at) if *at == path), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");

    let error = listen(&folder.path().join("missing")).await.unwrap_err();
    assert!(error.to_string().contains("missing/a_7670: cannot listen; the folder must exist"), "{error}");
}

#[tokio::test]
async fn a_file_that_took_the_sockets_place_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (guests, _events) = listen(folder.path()).await.unwrap();
    let path = socket(folder.path(), "a");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "somebody else's").unwrap();
    guests.stop().await;
    assert!(path.exists());
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
    guests.stop().await;
}

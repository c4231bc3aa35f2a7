//! The whole agent on a fixture tree, with a bridge on a unix socket. Time is tokio's, paused.

use super::*;
use crate::config::Tuning;
use crate::fake_bridge::{FakeBridge, allocation, welcome};
use crate::sense::fixture::{guest, write};
use crate::status;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vmtide_protocol::BridgeMessage;
use vmtide_protocol::bridge::{TrimStorage, YieldMemory};
use vmtide_protocol::demand::{MemoryDemand, MemoryReason, Urgency};

/// A configuration whose files nobody else uses.
fn config(root: &Path) -> Config {
    let tuning = Tuning {
        mode: vmtide_tuning::Mode::Adaptive,
        journal: root.join("run/tuning.journal"),
        catalogue: root.join("none"),
        zram: None,
    };
    Config { status_socket: root.join("run/agent.sock"), tuning, ..Config::default() }
}

/// A running agent, and the guest it looks at.
struct Running {
    root: TempDir,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), AgentError>>,
}

fn run(bridge: &FakeBridge) -> Running {
    let root = guest();
    let config = Config { bridge: bridge.address(), ..config(root.path()) };
    let (stop, stopped) = oneshot::channel::<()>();
    let below = root.path().to_owned();
    let task = tokio::spawn(async move {
        let stop = async move {
            stopped.await.ok();
            End::Stop
        };
        start(config, &below, stop).await
    });
    Running { root, stop, task }
}

async fn start(config: Config, root: &Path, stop: impl Future<Output = End>) -> Result<(), AgentError> {
    let tuner = Tuner::start(root, &config.tuning, inventory::now_ms())?;
    super::run(config, root, tuner, &mut Supervisor::default(), stop).await.map(|_| ())
}

impl Running {
    /// Gives the guest compressed swap, so that swappiness is a knob to set; returns its file, which says 60.
    fn swaps_to_memory(&self) -> PathBuf {
        let root = self.root.path();
        write(root, "proc/sys/vm/swappiness", "60\n");
        write(root, "proc/sys/kernel/osrelease", "6.12.0\n");
        write(root, "proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n");
        root.join("proc/sys/vm/swappiness")
    }

    fn set_available_mib(&self, mib: u64) {
        let text = format!("MemTotal: 737280 kB\nMemFree: 1024 kB\nMemAvailable: {} kB\n", mib * 1024);
        write(self.root.path(), "proc/meminfo", &text);
    }
}

fn memory(message: &AgentMessage) -> &MemoryDemand {
    let (AgentMessage::Report(report) | AgentMessage::Urgent(report)) = message else {
        panic!("no report: {message:?}")
    };
    report.demand.memory.known().expect("the demand is known")
}

#[tokio::test(start_paused = true)]
async fn reports_at_once_then_busy_then_quiet() {
    let bridge = FakeBridge::listen();
    let _agent = run(&bridge);
    let mut session = bridge.welcome().await;
    let began = Instant::now();
    let mut at_s = Vec::new();
    while began.elapsed() < Duration::from_secs(60) {
        let AgentMessage::Report(_) = session.hears().await else { panic!("nothing is urgent") };
        at_s.push(began.elapsed().as_secs());
    }
    assert!(at_s.len() <= 14, "{at_s:?}");
    assert_eq!(at_s[0], 0);
    let last = at_s.len() - 1;
    assert_eq!(at_s[last] - at_s[last - 1], 10, "{at_s:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_report_does_not_wait_for_the_knobs() {
    let bridge = FakeBridge::listen();
    let agent = run(&bridge);
    let swappiness = agent.swaps_to_memory();
    let mut session = bridge.accept().await;
    session.hears().await;
    assert_eq!(fs::read_to_string(&swappiness).unwrap(), "60\n", "set before the bridge was greeted");
    session.says(&welcome()).await;
    let first = session.hears().await;
    assert!(matches!(first, AgentMessage::Report(_)), "{first:?}");
    while !matches!(session.hears().await, AgentMessage::Event(event) if event.message.contains("swappiness")) {}
}

#[tokio::test(start_paused = true)]
async fn memory_that_runs_out_is_urgent_before_it_is_gone_and_at_most_four_times_a_second() {
    let bridge = FakeBridge::listen();
    let agent = run(&bridge);
    let mut session = bridge.welcome().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let began = Instant::now();
    let ramp = async move {
        for step in 0..60 {
            agent.set_available_mib(600 - step * 10);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        agent.stop.send(()).unwrap();
        agent.task.await.unwrap().unwrap();
    };
    let listen = async {
        let mut urgent = Vec::new();
        while let Some(message) = session.hears_or_end().await {
            if let AgentMessage::Urgent(_) = message {
                urgent.push((began.elapsed(), memory(&message).clone()));
            }
        }
        urgent
    };
    let (urgent, ()) = tokio::join!(listen, ramp);
    let (at, first) = urgent.iter().find(|(_, memory)| memory.urgency == Urgency::Critical).unwrap();
    assert!(*at < Duration::from_millis(2_900), "{at:?}, and memory was gone after 3 s");
    assert_eq!(first.reason, MemoryReason::Growing);
    assert!(urgent.len() <= 13, "{} in 3 s", urgent.len());
    for pair in urgent.windows(2) {
        let apart = pair[1].0.saturating_sub(pair[0].0);
        assert!(apart >= Duration::from_millis(249), "{apart:?} after {:?}", pair[0].0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_need_never_passes_the_maximum_that_the_bridge_told() {
    let bridge = FakeBridge::listen();
    let agent = run(&bridge);
    let mut session = bridge.accept().await;
    session.hears().await;
    session.says(&welcome()).await;
    session.says(&BridgeMessage::Allocation(allocation(200))).await;
    agent.set_available_mib(10);
    let mut needs = Vec::new();
    for _ in 0..6 {
        let message = session.hears().await;
        if let AgentMessage::Report(report) | AgentMessage::Urgent(report) = &message
            && let Some(memory) = report.demand.memory.known()
        {
            needs.push(memory.need_bytes.within(u64::MAX).0 / (1024 * 1024));
        }
    }
    assert_eq!(needs.last(), Some(&200), "{needs:?}");
}

#[tokio::test(start_paused = true)]
async fn an_oom_kill_is_told_as_it_is_seen() {
    let bridge = FakeBridge::listen();
    let agent = run(&bridge);
    let mut session = bridge.welcome().await;
    session.hears().await;
    session.hears().await;
    write(agent.root.path(), "proc/vmstat", "oom_kill 7\n");
    loop {
        match session.hears().await {
            AgentMessage::Event(event) => break assert_eq!(event.message, "2 killed for lack of memory"),
            message => assert!(memory(&message).urgency < Urgency::Pressed),
        }
    }
    let urgent = session.hears().await;
    assert_eq!(memory(&urgent).reason, MemoryReason::Exhausted);
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_says_so_and_leaves_no_socket() {
    let bridge = FakeBridge::listen();
    let agent = run(&bridge);
    let mut session = bridge.welcome().await;
    session.hears().await;
    agent.stop.send(()).unwrap();
    agent.task.await.unwrap().unwrap();
    let AgentMessage::Event(event) = session.hears().await else { panic!("no farewell") };
    assert_eq!(event.event, EventKind::Stopping);
    assert!(session.hears_or_end().await.is_none());
    assert!(!agent.root.path().join("run/agent.sock").exists());
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_through_a_bridge_that_comes_and_goes() {
    let bridge = FakeBridge::listen();
    let _agent = run(&bridge);
    for _ in 0..3 {
        let mut session = bridge.welcome().await;
        let AgentMessage::Report(report) = session.hears().await else { panic!("no report") };
        assert_eq!(report.sequence, 1, "each session counts its own");
    }
}

#[tokio::test]
async fn a_running_agent_tells_its_status_and_a_second_one_does_not_start() {
    let bridge = FakeBridge::listen();
    let agent = run(&bridge);
    let mut session = bridge.welcome().await;
    session.hears().await;
    let path = agent.root.path().join("run/agent.sock");
    let second = || start(config(agent.root.path()), agent.root.path(), std::future::pending());
    let refused = crate::full_text(&second().await.unwrap_err());
    assert!(refused.starts_with(&format!("another agent runs: process {} holds", std::process::id())), "{refused}");
    fs::remove_file(agent.root.path().join("run/tuning.lock")).unwrap();
    let refused = second().await;
    assert!(matches!(refused, Err(AgentError::AlreadyRunning { .. })), "{refused:?}");
    let asked = path.clone();
    let status = tokio::task::spawn_blocking(move || status::ask(&asked)).await.unwrap().unwrap();
    assert_eq!(status.session.vm.as_deref(), Some("a"));
    assert_eq!(status.allocation, Some(allocation(768)));
    assert!(!status.stall_trigger, "a fixture tree has none");
    agent.stop.send(()).unwrap();
    agent.task.await.unwrap().unwrap();
    assert!(status::ask(&path).unwrap_err().to_string().contains("is vmtide-agent running?"));
}

#[tokio::test]
async fn intervals_that_would_make_it_spin_are_held_to_sense() {
    let bridge = FakeBridge::listen();
    let _agent = run(&bridge);
    let mut session = bridge.accept().await;
    session.hears().await;
    session
        .says_bytes(
            b"{\"kind\":\"welcome\",\"protocol\":1,\"vm\":\"a\",\"intervals\":{\"busy_ms\":0,\"quiet_ms\":0}}\n",
        )
        .await;
    let began = Instant::now();
    for _ in 0..6 {
        session.hears().await;
    }
    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn knobs_follow_the_host_within_two_seconds_and_go_back_on_a_clean_stop() {
    let bridge = FakeBridge::listen();
    let agent = run(&bridge);
    let haltpoll = agent.root.path().join("sys/module/haltpoll/parameters/guest_halt_poll_ns");
    write(agent.root.path(), "sys/module/haltpoll/parameters/guest_halt_poll_ns", "200000\n");
    let mut session = bridge.welcome().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    session.says(&BridgeMessage::Host(Host { cpu_short: true, ..Host::default() })).await;
    let asked = Instant::now();
    let message = loop {
        match session.hears().await {
            AgentMessage::Event(event) if event.event == EventKind::Tuning => break event.message,
            _ => {}
        }
    };
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(message, "set guest_halt_poll_ns=0");
    assert_eq!(fs::read_to_string(&haltpoll).unwrap(), "0");

    session.says(&BridgeMessage::PauseTuning(PauseTuning { id: 5, pause_ms: 60_000 })).await;
    session.says(&BridgeMessage::Host(Host::default())).await;
    loop {
        if let AgentMessage::Reply(reply) = session.hears().await {
            break assert_eq!((reply.id, reply.status), (5, ReplyStatus::Done));
        }
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(fs::read_to_string(&haltpoll).unwrap(), "0", "paused");
    agent.stop.send(()).unwrap();
    agent.task.await.unwrap().unwrap();
    assert_eq!(fs::read_to_string(&haltpoll).unwrap(), "200000");
}

#[tokio::test]
async fn a_request_to_yield_gets_one_reply_by_its_deadline_and_only_one_at_a_time() {
    let bridge = FakeBridge::listen();
    let agent = run(&bridge);
    let reclaim = agent.root.path().join("sys/fs/cgroup/memory.reclaim");
    let mut session = bridge.welcome().await;
    let mib = 1024 * 1024;
    let request = |id, mib_wanted, deadline_ms| {
        BridgeMessage::YieldMemory(YieldMemory { id, bytes: mib_wanted * mib, deadline_ms })
    };
    let reply = async |session: &mut crate::fake_bridge::Guest| loop {
        if let AgentMessage::Reply(reply) = session.hears().await {
            break (reply.id, reply.status, reply.amount.within(u64::MAX).0 / mib, reply.detail.unwrap_or_default());
        }
    };
    // 550 of 768 MiB are free.
    session.says(&request(1, 200, 1_000)).await;
    assert_eq!(reply(&mut session).await, (1, ReplyStatus::Done, 200, String::new()));
    session.says(&request(2, 700, 1_000)).await;
    let (id, status, amount, detail) = reply(&mut session).await;
    assert_eq!((id, status), (2, ReplyStatus::Partial));
    assert!((500..550).contains(&amount), "{amount}");
    assert!(detail.starts_with("this kernel cannot be asked to reclaim"), "{detail}");

    // One that reclaims nothing, and a second request meanwhile.
    write(agent.root.path(), "sys/fs/cgroup/memory.reclaim", "");
    agent.set_available_mib(100);
    session.says(&request(3, 90, 1_000)).await;
    session.says(&request(4, 90, 1_000)).await;
    let (id, status, _, detail) = reply(&mut session).await;
    assert_eq!((id, status), (4, ReplyStatus::Refused));
    assert!(detail.contains("earlier request"), "{detail}");
    let (id, status, amount, detail) = reply(&mut session).await;
    assert_eq!((id, status, amount), (3, ReplyStatus::Partial, 0));
    assert!(detail.starts_with("nothing more can be reclaimed"), "{detail}");
    // Nothing truncates that file here: the last try, a small one, is at its beginning.
    assert!(fs::read_to_string(reclaim).unwrap().starts_with(&(4 * mib).to_string()));

    agent.set_available_mib(10);
    session.says(&request(5, 90, 1_000)).await;
    let (id, status, ..) = reply(&mut session).await;
    assert_eq!((id, status), (5, ReplyStatus::Refused), "the guest is at its floor");
}

#[tokio::test]
async fn revert_asks_the_running_agent() {
    use vmtide_tuning::control::{Answer, Request, ask};
    let bridge = FakeBridge::listen();
    let agent = run(&bridge);
    let swappiness = agent.swaps_to_memory();
    let _session = bridge.welcome().await;
    while fs::read_to_string(&swappiness).unwrap() == "60\n" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let journal = config(agent.root.path()).tuning.journal;
    let answer = tokio::task::spawn_blocking(move || ask(&journal, &Request::Revert { name: None }).unwrap());
    let Some(Answer::Undone { files }) = answer.await.unwrap() else { panic!("no answer") };
    assert!(files.iter().any(|file| file.knob == "swappiness"), "{files:?}");
    assert_eq!(fs::read_to_string(&swappiness).unwrap(), "60");
    let socket = config(agent.root.path()).status_socket;
    let status = tokio::task::spawn_blocking(move || status::ask(&socket)).await.unwrap().unwrap();
    assert!(status.held.contains("swappiness") && status.tuned_files == 0, "{status:?}");
    agent.stop.send(()).unwrap();
    agent.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_may_not_trim_does_not_say_that_it_can_and_says_why_when_asked() {
    let bridge = FakeBridge::listen();
    let _agent = run(&bridge);
    let mut session = bridge.accept().await;
    let AgentMessage::Hello(hello) = session.hears().await else { panic!("no hello") };
    assert!(!hello.capabilities.iter().any(|name| name == "trim_storage"), "{:?}", hello.capabilities);
    session.says(&welcome()).await;
    session.says(&BridgeMessage::TrimStorage(TrimStorage { id: 7, deadline_ms: 60_000 })).await;
    let reply = loop {
        if let AgentMessage::Reply(reply) = session.hears().await {
            break reply;
        }
    };
    assert_eq!((reply.id, reply.status), (7, ReplyStatus::Refused));
    assert!(reply.detail.unwrap().starts_with("cannot: the agent has no CAP_SYS_ADMIN"));
}

#[test]
fn a_kernel_before_5_4_is_told_and_what_is_no_release_is_not() {
    for (release, expected) in
        [("4.19.0-27-amd64", true), ("5.3.18", true), ("5.4.0", false), ("6.12.1", false), ("", false), ("x", false)]
    {
        assert_eq!(is_too_old(release), expected, "{release}");
    }
}

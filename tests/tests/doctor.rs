//! Both doctors on a chain that is whole, and on one whose links are taken out one by one.

use std::time::Duration;

use anyhow::{Context, Result};
use vmtide_lab::{Kernel, Lab, Vm, VmConfig, fleet::FleetConfig, wait_for};
use vmtide_protocol::doctor::{Check, Report, State};

const SOON: Duration = Duration::from_secs(60);

/// What the guest's doctor says, held against its exit code.
async fn doctor(vm: &Vm) -> Result<Report> {
    let output = vm.try_run("vmtide-agent doctor --json --config /tmp/agent.toml").await?;
    let report: Report = serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
    assert_eq!(output.code, i32::from(!report.ok), "{}", report.text());
    Ok(report)
}

fn check<'a>(report: &'a Report, name: &str) -> &'a Check {
    report.check(name).unwrap_or_else(|| panic!("no {name} in\n{}", report.text()))
}

#[tokio::test]
async fn both_doctors_find_a_whole_chain_whole_and_name_the_link_that_is_gone() -> Result<()> {
    let config = FleetConfig::new(640).with(VmConfig::new("a", Kernel::V6_12).memory_mib(512));
    let mut fleet = Lab::ready()?.launch_fleet(config).await?;
    let vm = fleet.vm("a")?;
    vm.put("/tmp/agent.toml", b"bridge = \"vsock://2:7670\"\n").await?;

    // Nobody listens.
    let report = doctor(vm).await?;
    println!("no bridge, no agent:\n{}", report.text());
    for whole in ["virtual machine", "vsock device", "/dev/vsock", "context id", "balloon", "pressure (PSI)", "cgroup"]
    {
        assert_eq!(check(&report, whole).state, State::Ok, "{}", report.text());
    }
    assert_eq!(check(&report, "context id").found, "3");
    let bridge = check(&report, "bridge");
    assert_eq!(
        (bridge.state, bridge.next.as_deref()),
        (State::Fail, Some("on the host: systemctl start vmtide-bridge; vmtide doctor"))
    );
    let (well, host) = fleet.doctor().await?;
    println!("the host without a bridge:\n{}", host.text());
    assert!(!well && check(&host, "bridge").state == State::Fail);
    // Nobody else holds the monitor: it was asked, and is free again for the bridge below.
    assert_eq!(check(&host, "a: monitor").state, State::Ok, "{}", host.text());
    assert_eq!(check(&host, "a: balloon").state, State::Ok, "{}", host.text());

    // A bridge, and no agent: the doctor says hello itself, and leaves no session behind.
    fleet.start_bridge().await?;
    let report = doctor(fleet.vm("a")?).await?;
    println!("no agent:\n{}", report.text());
    assert_eq!(check(&report, "bridge").found, "vsock://2:7670 welcomes VM a");
    assert!(report.ok && check(&report, "agent").state == State::Warn, "{}", report.text());
    let client = fleet.client();
    wait_for("the session has ended", SOON, async || Ok(client.status().await?.agents == 0)).await?;

    // All of it: the session is the agent's, and stays so.
    fleet.start_agents().await?;
    wait_for("a report", SOON, async || Ok(client.vm("a").await?.agent.demand_age_ms.is_some())).await?;
    let sessions = client.vm("a").await?.agent.sessions;
    let report = doctor(fleet.vm("a")?).await?;
    println!("whole:\n{}", report.text());
    assert!(report.ok && check(&report, "agent").state == State::Ok, "{}", report.text());
    assert!(check(&report, "bridge").found.ends_with("as VM a"), "{}", report.text());
    assert!(check(&report, "protocol").found.starts_with("version 1;"), "{}", report.text());
    let (well, host) = fleet.doctor().await?;
    println!("the host, whole:\n{}", host.text());
    assert!(well, "{}", host.text());
    for whole in ["configuration", "bridge", "a: monitor", "a: balloon", "a: address", "a: agent"] {
        assert_eq!(check(&host, whole).state, State::Ok, "{}", host.text());
    }
    assert_eq!(client.vm("a").await?.agent.sessions, sessions, "no doctor took the session");

    // The bridge dies: the running agent tells of it.
    fleet.kill_bridge();
    wait_for("the agent has noticed", SOON, async || {
        Ok(check(&doctor(fleet.vm("a")?).await?, "bridge").state == State::Fail)
    })
    .await
}

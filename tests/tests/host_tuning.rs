//! The host's own knobs, on a real kernel: a lab guest plays the host. Its VMs are stand-ins that hold equal memory, for none runs
//! inside it.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::Result;
use serde_json::Value;
use vmtide_lab::{Kernel, Lab, Vm, VmConfig, wait_for};

/// Two emulated cores and a scan of everything, several times.
const SOON: Duration = Duration::from_secs(120);

const KSM: &str = "/sys/kernel/mm/ksm/run";
const HALT_POLL: &str = "/sys/module/kvm/parameters/halt_poll_ns";

/// What each of two "VMs" holds, of 640 MiB: with less, huge pages are off, and their knobs with them.
const EQUAL_MIB: u64 = 220;

/// A guest that plays the host of two VMs.
struct Host {
    vm: Vm,
    files: Vec<String>,
}

impl Host {
    async fn boot(kernel: Kernel) -> Result<Self> {
        let lab = Lab::ready()?;
        let vm = lab.launch(VmConfig::new("host", kernel).memory_mib(640).vcpus(2)).await?;
        for binary in ["vmtide", "vmtide-bridge"] {
            vm.put(&format!("/bin/{binary}"), &fs::read(lab.binary(binary))?).await?;
        }
        vm.put("/bin/qemu-system-x86_64", &fs::read(lab.binary("vmtide-equal"))?).await?;
        // Of KVM only what has the knob: no VM can run in here. In 6.12 what it stands on is built in.
        vm.run("for module in irqbypass kvm; do [ ! -e /lib/more/$module.ko ] || insmod /lib/more/$module.ko; done")
            .await?;
        // Where the kernel chooses its pace by itself (6.12), a scan of this little memory would take 200 s, too.
        vm.run("pace=/sys/kernel/mm/ksm/advisor_target_scan_time; [ ! -e $pace ] || echo 5 >$pace").await?;
        vm.run("mkdir -p /etc/vmtide/host-tuning.d").await?;
        vm.put("/etc/vmtide/host-tuning.d/ksm.toml", b"[[knob]]\nid = \"ksm\"\nmode = \"adaptive\"\n").await?;
        let mut host = Self { vm, files: Vec::new() };
        host.set_mode("adaptive").await?;
        let rows = host.rows().await?;
        host.files = rows.iter().filter(|row| row["standing"] != "absent").filter_map(path).collect();
        host.files.extend(["dirty_ratio", "dirty_background_ratio"].map(|name| format!("/proc/sys/vm/{name}")));
        Ok(host)
    }

    async fn set_mode(&self, mode: &str) -> Result<()> {
        self.vm.put("/etc/vmtide/bridge.toml", format!("[tuning]\nmode = \"{mode}\"\n").as_bytes()).await
    }

    async fn tune(&self) -> Result<u32> {
        self.vm.start("tuner", "vmtide-bridge tune").await
    }

    async fn rows(&self) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.vm.run("vmtide tuning list --json").await?)?;
        Ok(list["knobs"].as_array().cloned().unwrap_or_default())
    }

    /// What every file of the catalogue holds.
    async fn state(&self) -> Result<BTreeMap<String, String>> {
        let text = self.vm.run(&format!("grep -H '' {}", self.files.join(" "))).await?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, holds)| (path.into(), holds.into()))
            .collect())
    }

    async fn holds(&self, path: &str) -> Result<String> {
        Ok(self.vm.read(path, 0).await?.trim().to_owned())
    }

    async fn until_holds(&self, path: &str, expected: &str) -> Result<()> {
        wait_for(&format!("{path} holds {expected}"), SOON, async || Ok(self.holds(path).await? == expected)).await
    }
}

fn path(row: &Value) -> Option<String> {
    row["path"].as_str().map(Into::into)
}

async fn merges_and_follows_and_leaves_nothing_behind(kernel: Kernel) -> Result<()> {
    let host = Host::boot(kernel).await?;
    let before = host.state().await?;
    assert!(before.len() >= 12, "{before:?}");

    // By the mode that every host has at first nothing is set, and nothing stays behind.
    host.set_mode("observe").await?;
    let said = host.vm.run("vmtide-bridge tune 2>&1").await?;
    assert!(said.contains("nothing to do: tuning.mode sets nothing"), "{said}");
    assert_eq!(host.state().await?, before);

    // Two VMs of one image fill the host, and it has CPU time to spare.
    for name in ["vm-a", "vm-b"] {
        host.vm.start(name, &format!("qemu-system-x86_64 {EQUAL_MIB}")).await?;
    }
    host.set_mode("adaptive").await?;
    let tuner = host.tune().await?;
    host.until_holds(KSM, "1").await?;
    // Equal pages become one until 30 % of memory are available again, from less than 20; what is merged then stays merged.
    host.until_holds(KSM, "0").await?;
    let merged_mib = host.holds("/sys/kernel/mm/ksm/pages_sharing").await?.parse::<u64>()? / 256;
    println!("{merged_mib} MiB of {EQUAL_MIB} were merged");
    assert!(merged_mib >= EQUAL_MIB / 5, "{merged_mib} MiB");

    // Whoever waits for a CPU is not to wait for a vCPU that polls.
    assert_eq!(host.holds(HALT_POLL).await?, "200000");
    let busy = host.vm.start("busy", "vmtide-load --phases cpu=8:600s").await?;
    host.until_holds(HALT_POLL, "0").await?;
    let during = host.state().await?;
    host.vm.kill(busy).await?;
    host.until_holds(HALT_POLL, "200000").await?;

    // An operator's revert holds while the tuner runs, and the history tells of all that.
    let reverted = host.vm.run("vmtide tuning revert watermark_scale_factor").await?;
    assert!(reverted.starts_with("restored"), "{reverted}");
    let rows = host.rows().await?;
    let stands = |knob: &str| rows.iter().find(|row| row["knob"] == knob).map(|row| row["standing"].clone());
    assert_eq!(stands("watermark_scale_factor"), Some("held".into()));
    let history = host.vm.run("vmtide tuning history").await?;
    assert!(history.contains("ksm: wrote 1 to /sys/kernel/mm/ksm/run (originally 0)"), "{history}");

    // Killed, it leaves what it set, and the unit's `ExecStopPost` puts that back; stopped, it does so itself.
    host.vm.run(&format!("kill -9 {tuner}")).await?;
    assert_ne!(host.state().await?, before);
    assert!(during.iter().any(|(path, holds)| before[path] != *holds));
    host.vm.run("vmtide tuning revert --all").await?;
    assert_eq!(host.state().await?, before, "after SIGKILL and revert");
    let tuner = host.tune().await?;
    wait_for("something is set", SOON, async || Ok(host.state().await? != before)).await?;
    host.vm.run(&format!("kill {tuner}")).await?;
    wait_for("all is put back", SOON, async || Ok(host.state().await? == before)).await
}

#[tokio::test]
async fn the_host_is_tuned_and_put_back_on_6_12() -> Result<()> {
    merges_and_follows_and_leaves_nothing_behind(Kernel::V6_12).await
}

#[tokio::test]
async fn the_host_is_tuned_and_put_back_on_6_1() -> Result<()> {
    merges_and_follows_and_leaves_nothing_behind(Kernel::V6_1).await
}

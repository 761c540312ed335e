//! Damage on a disk below a replicated volume is found and repaired: Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use trine_tests::volume::{OnVolume, on_redis};
use trine_tests::{Options, wait_until};

const SOON: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// A file of the volume, of 5 MiB, in the files of all three nodes. Gives its number.
fn ballast(s: &OnVolume) -> Result<u64> {
    let (primary, _) = s.primary()?;
    let data = s.cluster.node(&primary).data();
    fs::create_dir(data.join("deep"))?;
    let file = File::create(data.join("deep/ballast"))?;
    (0..5).try_for_each(|i| file.write_all_at(&[7; MIB], i * MIB as u64))?;
    file.sync_all()?;
    let number = file.metadata()?.ino();
    for node in s.cluster.nodes() {
        let object = node.dir.join(format!("volume/objects/{number:012x}"));
        wait_until("the file to be on every disk", SOON, || {
            Ok(fs::metadata(&object).is_ok_and(|m| m.len() == 5 * MIB as u64))
        })?;
    }
    Ok(number)
}

/// Changes a byte on the node's disk.
fn damage(s: &OnVolume, node: &str, number: u64, at: usize) -> Result<()> {
    let object = s.cluster.node(node).dir.join(format!("volume/objects/{number:012x}"));
    let disk = OpenOptions::new().write(true).open(&object).with_context(|| object.display().to_string())?;
    Ok(disk.write_all_at(b"!", at as u64)?)
}

#[test]
fn damage_on_a_standby_is_repaired_while_clients_write() {
    on_redis("v-verify", Options::local(), |s| {
        let number = ballast(s)?;
        let clients = s.clients()?;
        let status = s.cluster.wait_healthy()?;
        let said = s.cluster.trine_ok(&["volume", "verify"])?;
        ensure!(said.contains("3 copies of") && said.contains("are equal\n"), "{said}");
        let standbys = status.standbys();
        damage(s, &standbys[0], number, 4711)?;
        damage(s, &standbys[1], number, 3 * MIB)?;
        let said = s.cluster.trine_ok(&["volume", "verify"])?;
        for (standby, from) in [(&standbys[0], 0), (&standbys[1], 3 * MIB)] {
            let line =
                format!("deep/ballast from byte {from} to {} differed on {standby}, and was repaired", from + MIB);
            ensure!(said.contains(&line), "{line} is not said: {said}");
        }
        ensure!(said.contains("are equal again"), "{said}");
        let said = s.cluster.trine_ok(&["volume", "verify", "--json"])?;
        let json: serde_json::Value = serde_json::from_str(&said)?;
        ensure!(json["differences"] == serde_json::json!([]) && json["copies"] == 3, "{said}");
        let events = s.cluster.trine_ok(&["events", "--json"])?;
        ensure!(events.contains("was repaired from the others"), "{events}");
        clients.wait_acked(50)?;
        let now = s.cluster.wait_healthy()?;
        ensure!(now.epoch == status.epoch, "a repair ended epoch {}", status.epoch);
        for standby in &standbys {
            ensure!(s.new_copies(standby)?.is_empty(), "{standby} was made anew");
        }
        Ok(())
    });
}

#[test]
fn damage_on_the_primary_makes_another_one_lead_that_repairs_it() {
    on_redis("v-verify-primary", Options::local(), |s| {
        let number = ballast(s)?;
        let clients = s.clients()?;
        let (primary, epoch) = s.primary()?;
        damage(s, &primary, number, 2 * MIB + 1)?;
        let said = s.cluster.trine(&["volume", "verify"])?;
        ensure!(said.status.code() == Some(1), "{said:?}");
        let status = s.cluster.wait_new_primary(epoch)?;
        ensure!(status.primary.as_deref() != Some(&primary), "the damaged node leads");
        s.cluster.wait_healthy()?;
        let said = s.cluster.trine_ok(&["volume", "verify"])?;
        // Most likely nothing differs any more: the former primary has applied the end of its log once more.
        ensure!(said.contains("are equal"), "{said}");
        let events = s.cluster.trine_ok(&["events", "--json"])?;
        ensure!(events.contains("the primary among them: another node takes over"), "no event says so: {events}");
        ensure!(s.new_copies(&primary)?.is_empty(), "{primary} was made anew");
        clients.wait_acked(50)
    });
}

//! A Mac, put together from what its tools print. Who runs them is handed in, so all of it is tested on every system. What a tool
//! does not say is unknown, and told as such.

use std::{fmt, thread};

use crate::{
    Machine,
    tools::{
        MacPower, ToolError, ifconfig, ioreg, macmon, networksetup, pmset, powermetrics, rdma, sysctl,
        sysctl::MacSettings,
        thunderbolt::{self, Port},
    },
};

use super::{Facts, System};

/// Who runs a program with arguments and gives its output, or says why not.
pub type Ask = dyn Fn(&str, &[&str]) -> Result<Vec<u8>, String> + Sync;

/// What only a Mac has. `None` is what could not be asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mac {
    /// Model, build, limits.
    pub settings: MacSettings,
    /// Its GPU.
    pub gpu: Option<ioreg::Gpu>,
    /// Whether RDMA over Thunderbolt is switched on.
    pub is_rdma_enabled: Option<bool>,
    /// Its RDMA devices.
    pub devices: Option<Vec<rdma::Device>>,
    /// Its Thunderbolt ports, in order.
    pub ports: Option<Vec<Port>>,
    /// Its ports with interfaces.
    pub hardware_ports: Option<Vec<networksetup::HardwarePort>>,
    /// Its network services.
    pub services: Option<Vec<networksetup::Service>>,
    /// Its network interfaces.
    pub interfaces: Option<Vec<ifconfig::Interface>>,
}

impl Mac {
    /// The interface of a Thunderbolt port, as in `en2`: its RDMA device is `rdma_en2`.
    pub fn interface_of(&self, port: &Port) -> Option<&str> {
        let ports = self.hardware_ports.as_ref()?.iter();
        let of_number = |p: &&networksetup::HardwarePort| p.thunderbolt_number() == port.number;
        port.number?;
        ports.clone().find(of_number).map(|port| port.device.as_str())
    }
}

/// What one question gave.
enum Answer {
    Ports(Vec<Port>),
    HardwarePorts(Vec<networksetup::HardwarePort>),
    Services(Vec<networksetup::Service>),
    Interfaces(Vec<ifconfig::Interface>),
    Rdma(bool),
    Devices(Vec<rdma::Device>),
    Gpu(ioreg::Gpu),
    Battery(bool),
    Power(MacPower),
    Settings(MacSettings),
}

type Question = fn(&Ask) -> Result<Answer, String>;

/// All questions; they are asked at once, for some take seconds.
const QUESTIONS: [Question; 10] = [
    |ask| {
        let args = ["SPThunderboltDataType", "-json"];
        read(ask, "/usr/sbin/system_profiler", &args, thunderbolt::parse).map(Answer::Ports)
    },
    |ask| {
        let args = ["-listallhardwareports"];
        read(ask, NETWORKSETUP, &args, networksetup::hardware_ports).map(Answer::HardwarePorts)
    },
    |ask| {
        let args = ["-listallnetworkservices"];
        read(ask, NETWORKSETUP, &args, networksetup::services).map(Answer::Services)
    },
    |ask| read(ask, "/sbin/ifconfig", &[], ifconfig::parse).map(Answer::Interfaces),
    |ask| read(ask, "rdma_ctl", &["status"], rdma::is_enabled).map(Answer::Rdma),
    |ask| read(ask, "ibv_devinfo", &["-v"], rdma::devinfo).map(Answer::Devices),
    |ask| {
        let args = ["-r", "-d", "1", "-w", "0", "-c", "IOAccelerator"];
        read(ask, "/usr/sbin/ioreg", &args, ioreg::gpu).map(Answer::Gpu)
    },
    |ask| read(ask, "/usr/bin/pmset", &["-g", "batt"], pmset::is_on_battery).map(Answer::Battery),
    |ask| power(ask).map(Answer::Power),
    |ask| {
        let answer = ask(sysctl::PROGRAM, &sysctl::NAMES)?;
        Ok(Answer::Settings(sysctl::settings(&String::from_utf8_lossy(&answer))))
    },
];
const NETWORKSETUP: &str = "/usr/sbin/networksetup";

/// Asks everything.
pub(super) fn facts(machine: Machine, ask: &Ask) -> Facts {
    let answers = thread::scope(|scope| {
        let threads: Vec<_> = QUESTIONS.iter().map(|question| scope.spawn(move || question(ask))).collect();
        let lost = |_| Err("a question was not answered".to_owned());
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect::<Vec<_>>()
    });
    let (mut mac, mut is_on_battery, mut power, mut unanswered) = (Mac::default(), None, None, Vec::new());
    for answer in answers {
        match answer {
            Ok(Answer::Ports(ports)) => mac.ports = Some(ports),
            Ok(Answer::HardwarePorts(ports)) => mac.hardware_ports = Some(ports),
            Ok(Answer::Services(services)) => mac.services = Some(services),
            Ok(Answer::Interfaces(interfaces)) => mac.interfaces = Some(interfaces),
            Ok(Answer::Rdma(is_enabled)) => mac.is_rdma_enabled = Some(is_enabled),
            Ok(Answer::Devices(devices)) => mac.devices = Some(devices),
            Ok(Answer::Gpu(gpu)) => mac.gpu = Some(gpu),
            Ok(Answer::Battery(is_battery)) => is_on_battery = Some(is_battery),
            Ok(Answer::Power(reading)) => power = Some(reading),
            Ok(Answer::Settings(settings)) => mac.settings = settings,
            Err(why) => unanswered.push(why),
        }
    }
    Facts {
        machine,
        swap_used: mac.settings.swap_used,
        disk_free: None,
        is_on_battery,
        memory_gb_s: None,
        power: power.as_ref().map(MacPower::readings).unwrap_or_default(),
        peers: Vec::new(),
        unanswered,
        system: System::Mac(mac),
    }
}

fn read<T>(
    ask: &Ask,
    program: &str,
    args: &[&str],
    parse: fn(&str) -> Result<T, ToolError>,
) -> Result<T, String> {
    parse(&String::from_utf8_lossy(&ask(program, args)?)).map_err(|error| error.to_string())
}

/// `macmon` where it is installed; the system's own meter is for root alone.
fn power(ask: &Ask) -> Result<MacPower, String> {
    let both = |first: &dyn fmt::Display, second: &dyn fmt::Display| format!("{first}; {second}");
    let first = match read(ask, "macmon", &["pipe", "-s", "1", "-i", "200"], macmon::power) {
        Ok(power) => return Ok(power),
        Err(why) => why,
    };
    let args = ["-f", "plist", "-n", "1", "-i", "200", "--samplers", "cpu_power,gpu_power,ane_power"];
    let output = ask("/usr/bin/powermetrics", &args).map_err(|second| both(&first, &second))?;
    let samples = powermetrics::samples(&output).map_err(|second| both(&first, &second))?;
    samples.last().copied().ok_or(first)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sysfs::PowerReading;

    /// A Mac that prints fixtures: the first of several.
    pub(crate) fn studio(program: &str, args: &[&str]) -> Result<Vec<u8>, String> {
        let text = match (program.rsplit('/').next().unwrap_or(program), args.first().copied()) {
            ("system_profiler", _) => include_str!("../../fixtures/thunderbolt-studio-1.json"),
            ("networksetup", Some("-listallhardwareports")) => {
                include_str!("../../fixtures/hardware-ports.txt")
            }
            ("networksetup", _) => include_str!("../../fixtures/network-services.txt"),
            ("ifconfig", _) => include_str!("../../fixtures/ifconfig.txt"),
            ("rdma_ctl", Some("status")) => "enabled\n",
            ("ibv_devinfo", _) => include_str!("../../fixtures/ibv_devinfo-v.txt"),
            ("ioreg", _) => include_str!("../../fixtures/ioreg.txt"),
            ("pmset", _) => "Now drawing from 'AC Power'\n",
            ("macmon", Some("pipe")) => include_str!("../../fixtures/macmon.jsonl"),
            ("sysctl", _) => include_str!("../../fixtures/sysctl.txt"),
            _ => return Err(format!("{program}: no such program")),
        };
        Ok(text.as_bytes().to_vec())
    }

    fn mac(ask: &Ask) -> (Mac, Facts) {
        let facts = facts(Machine::probe(), ask);
        let System::Mac(mac) = facts.system.clone() else { panic!("no Mac") };
        (mac, facts)
    }

    #[test]
    fn a_mac_is_put_together() {
        let (mac, facts) = mac(&studio);
        assert!(facts.unanswered.is_empty(), "{:?}", facts.unanswered);
        assert_eq!((mac.is_rdma_enabled, facts.is_on_battery), (Some(true), Some(false)));
        let ports = mac.ports.clone().unwrap();
        assert_eq!(mac.interface_of(&ports[1]), Some("en3"));
        assert_eq!(mac.settings.model.as_deref(), Some("Mac17,14"));
        assert_eq!(facts.power[0], PowerReading { name: "system".to_owned(), watts: 44.5 });
        assert_eq!(facts.as_peer().build.as_deref(), Some("25C56"));
        let nameless = Port { number: None, ..ports[0].clone() };
        assert_eq!(mac.interface_of(&nameless), None);
    }

    #[test]
    fn what_is_not_answered_is_told_and_unknown() {
        let (mac, facts) = mac(&|program, _| Err(format!("{program}: broken")));
        assert_eq!(mac, Mac::default());
        assert_eq!(facts.unanswered.len(), QUESTIONS.len(), "{:?}", facts.unanswered);
        assert!(facts.unanswered.iter().any(|why| why.contains("macmon") && why.contains("powermetrics")));
    }

    #[test]
    fn power_comes_from_the_system_where_macmon_is_missing() {
        let ask = |program: &str, args: &[&str]| match program {
            "macmon" => Err("macmon: no such program".to_owned()),
            "/usr/bin/powermetrics" => Ok(include_bytes!("../../fixtures/powermetrics.plist").to_vec()),
            _ => studio(program, args),
        };
        let (_, facts) = mac(&ask);
        assert_eq!(facts.power[0], PowerReading { name: "chip".to_owned(), watts: 34.8 });
    }
}

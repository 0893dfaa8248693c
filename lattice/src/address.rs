//! Which IP addresses a guest may reach: those of the public internet, and what the operator of a node adds. Pure; who
//! resolves names and opens connections asks here, with the very address that is then used.
//!
//! IPv4 is judged by the list of special ranges (IANA's registry and the clouds' metadata services), IPv6 by what is not
//! special: only `2000::/3` is given out for the public internet.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Why an address is not one of the public internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Special {
    /// `0.0.0.0/8`, `::`: connecting there reaches this machine.
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// RFC 1918.
    Private,
    /// `100.64.0.0/10`: behind a carrier's NAT.
    Shared,
    /// `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// Where clouds tell their machines who they are, credentials included.
    Metadata,
    /// `fc00::/7`.
    UniqueLocal,
    Multicast,
    /// For examples and measurements.
    Documentation,
    /// IPv6 that wraps IPv4 to a place that cannot be judged: 6to4, Teredo, NAT64 of one's own.
    Tunnel,
    /// Given out for nothing yet, or by IETF for protocols.
    Reserved,
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Special::Unspecified => "an unspecified address",
            Special::Loopback => "a loopback address",
            Special::Private => "a private address",
            Special::Shared => "a shared address (carrier-grade NAT)",
            Special::LinkLocal => "a link-local address",
            Special::Metadata => "the address of a cloud's metadata service",
            Special::UniqueLocal => "a unique local address",
            Special::Multicast => "a multicast address",
            Special::Documentation => "an address for documentation",
            Special::Tunnel => "an address that wraps another one",
            Special::Reserved => "a reserved address",
        })
    }
}

/// First match counts: a metadata service lies inside of another range.
const SPECIAL_V4: [([u8; 4], u8, Special); 20] = [
    ([169, 254, 169, 254], 32, Special::Metadata), // most clouds
    ([169, 254, 170, 2], 32, Special::Metadata),   // containers of one of them
    ([100, 100, 100, 200], 32, Special::Metadata),
    ([168, 63, 129, 16], 32, Special::Metadata), // a public address by its number only
    ([192, 0, 0, 192], 32, Special::Metadata),
    ([0, 0, 0, 0], 8, Special::Unspecified),
    ([10, 0, 0, 0], 8, Special::Private),
    ([100, 64, 0, 0], 10, Special::Shared),
    ([127, 0, 0, 0], 8, Special::Loopback),
    ([169, 254, 0, 0], 16, Special::LinkLocal),
    ([172, 16, 0, 0], 12, Special::Private),
    ([192, 0, 0, 0], 24, Special::Reserved),
    ([192, 0, 2, 0], 24, Special::Documentation),
    ([192, 88, 99, 0], 24, Special::Tunnel),
    ([192, 168, 0, 0], 16, Special::Private),
    ([198, 18, 0, 0], 15, Special::Documentation),
    ([198, 51, 100, 0], 24, Special::Documentation),
    ([203, 0, 113, 0], 24, Special::Documentation),
    ([224, 0, 0, 0], 4, Special::Multicast),
    ([240, 0, 0, 0], 4, Special::Reserved), // broadcast as well
];

/// What is special about an address, if anything. An IPv4 address inside of an IPv6 one (mapped, or behind the well-known
/// NAT64 prefix) is judged as what it is.
pub fn special(address: IpAddr) -> Option<Special> {
    match address.to_canonical() {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => match nat64(v6) {
            Some(v4) => special_v4(v4),
            None => special_v6(v6),
        },
    }
}

fn special_v4(address: Ipv4Addr) -> Option<Special> {
    let of_range = |(base, prefix, _): &&([u8; 4], u8, Special)| {
        shares_prefix(&address.octets(), base, *prefix) // the table is constant and right: see the tests
    };
    SPECIAL_V4.iter().find(of_range).map(|(_, _, special)| *special)
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    let segments = address.segments();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Special::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Special::Loopback),
        [0xfd00, 0x0ec2, ..] => Some(Special::Metadata),
        [first, ..] if first & 0xfe00 == 0xfc00 => Some(Special::UniqueLocal),
        [first, ..] if first & 0xffc0 == 0xfe80 => Some(Special::LinkLocal),
        [first, ..] if first & 0xff00 == 0xff00 => Some(Special::Multicast),
        [0x0064, 0xff9b, ..] => Some(Special::Tunnel), // RFC 8215; the well-known prefix is not asked here
        [0x2001, 0x0000, ..] | [0x2002, ..] => Some(Special::Tunnel), // Teredo, 6to4
        [0x2001, 0x0002, 0x0000, ..] | [0x2001, 0x0db8, ..] => Some(Special::Documentation),
        [0x2001, second, ..] if second < 0x0200 => Some(Special::Reserved), // IETF protocols
        [0x3fff, second, ..] if second < 0x1000 => Some(Special::Documentation),
        [first, ..] if first & 0xe000 == 0x2000 => None,
        _ => Some(Special::Reserved),
    }
}

/// The IPv4 address behind the well-known prefix `64:ff9b::/96` (RFC 6052).
fn nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        _ => None,
    }
}

fn shares_prefix(one: &[u8], other: &[u8], prefix: u8) -> bool {
    let mut bits = u32::from(prefix);
    one.len() == other.len()
        && one.iter().zip(other).all(|(a, b)| {
            let here = bits.min(8);
            bits -= here;
            (a ^ b).leading_zeros() >= here
        })
}

/// A range of addresses: `10.0.0.0/8`, `fd00:1::/32`, or a single one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

impl Cidr {
    fn is_single(&self) -> bool {
        self.prefix == if self.base.is_ipv4() { 32 } else { 128 }
    }

    /// Whether the address, or the IPv4 address that it stands for, lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let within = |address: IpAddr| match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(v4)) => shares_prefix(&base.octets(), &v4.octets(), self.prefix),
            (IpAddr::V6(base), IpAddr::V6(v6)) => shares_prefix(&base.octets(), &v6.octets(), self.prefix),
            _ => false,
        };
        let address = address.to_canonical();
        let wrapped = match address {
            IpAddr::V6(v6) => nat64(v6),
            IpAddr::V4(_) => None,
        };
        within(address) || wrapped.is_some_and(|v4| within(v4.into()))
    }
}

/// Why a text is not a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of addresses; write 10.0.0.0/8, fd00:1::/32 or a single address")]
pub struct CidrError(String);

impl FromStr for Cidr {
    type Err = CidrError;
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(crate::limits::clip(text, 64).to_owned());
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| error())?;
        if base != base.to_canonical() {
            return Err(error()); // a mapped address reads like two ranges at once
        }
        let bits = if base.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().map_err(|_| error())?,
            Some(_) => return Err(error()),
        };
        if prefix > bits {
            return Err(error());
        }
        Ok(Self { base, prefix })
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;
    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the operator of a node lets guests reach beyond the public internet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    allowed: Vec<Cidr>,
}

impl AddressPolicy {
    pub fn new(allowed: Vec<Cidr>) -> Self {
        Self { allowed }
    }

    /// Whether the operator named this address, by a range.
    fn names(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|range| range.contains(address))
    }

    /// Whether the operator named this very address. A range was chosen for what else lies in it, and says nothing of those
    /// that are the node's own.
    pub fn names_alone(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|range| range.is_single() && range.contains(address))
    }

    /// Nothing, or why the address may not be reached.
    pub fn check(&self, address: IpAddr) -> Result<(), Special> {
        match special(address) {
            Some(special) if !self.names(address) => Err(special),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn special_addresses_are_told_from_public_ones() {
        for (text, expect) in [
            ("0.0.0.0", Some(Special::Unspecified)),
            ("0.1.2.3", Some(Special::Unspecified)),
            ("10.0.0.0", Some(Special::Private)),
            ("10.255.255.255", Some(Special::Private)),
            ("100.63.255.255", None),
            ("100.64.0.0", Some(Special::Shared)),
            ("100.100.100.200", Some(Special::Metadata)),
            ("100.127.255.255", Some(Special::Shared)),
            ("100.128.0.0", None),
            ("126.255.255.255", None),
            ("127.0.0.1", Some(Special::Loopback)),
            ("127.255.255.255", Some(Special::Loopback)),
            ("168.63.129.16", Some(Special::Metadata)),
            ("168.63.129.17", None),
            ("169.254.0.1", Some(Special::LinkLocal)),
            ("169.254.169.254", Some(Special::Metadata)),
            ("169.254.170.2", Some(Special::Metadata)),
            ("172.15.255.255", None),
            ("172.16.0.0", Some(Special::Private)),
            ("172.31.255.255", Some(Special::Private)),
            ("172.32.0.0", None),
            ("192.0.0.8", Some(Special::Reserved)),
            ("192.0.0.192", Some(Special::Metadata)),
            ("192.0.2.1", Some(Special::Documentation)),
            ("192.88.99.1", Some(Special::Tunnel)),
            ("192.168.0.1", Some(Special::Private)),
            ("192.169.0.1", None),
            ("198.17.255.255", None),
            ("198.18.0.1", Some(Special::Documentation)),
            ("198.19.255.255", Some(Special::Documentation)),
            ("198.20.0.0", None),
            ("198.51.100.1", Some(Special::Documentation)),
            ("203.0.113.1", Some(Special::Documentation)),
            ("224.0.0.1", Some(Special::Multicast)),
            ("239.255.255.255", Some(Special::Multicast)),
            ("240.0.0.1", Some(Special::Reserved)),
            ("255.255.255.255", Some(Special::Reserved)),
            ("1.1.1.1", None),
            ("::", Some(Special::Unspecified)),
            ("::1", Some(Special::Loopback)),
            ("::ffff:127.0.0.1", Some(Special::Loopback)),
            ("::ffff:169.254.169.254", Some(Special::Metadata)),
            ("::ffff:1.1.1.1", None),
            ("::127.0.0.1", Some(Special::Reserved)), // the deprecated compatible form
            ("64:ff9b::10.0.0.1", Some(Special::Private)),
            ("64:ff9b::1.1.1.1", None),
            ("64:ff9b:1::1.1.1.1", Some(Special::Tunnel)),
            ("100::1", Some(Special::Reserved)),
            ("2001::1", Some(Special::Tunnel)),
            ("2001:2::1", Some(Special::Documentation)),
            ("2001:20::1", Some(Special::Reserved)),
            ("2001:1ff::1", Some(Special::Reserved)),
            ("2001:200::1", None),
            ("2001:db8::1", Some(Special::Documentation)),
            ("2002:7f00:1::1", Some(Special::Tunnel)),
            ("2606:4700::1111", None),
            ("3fff::1", Some(Special::Documentation)),
            ("3fff:1000::1", None),
            ("4000::1", Some(Special::Reserved)),
            ("fc00::1", Some(Special::UniqueLocal)),
            ("fd00:ec2::254", Some(Special::Metadata)),
            ("fdff::1", Some(Special::UniqueLocal)),
            ("fe80::1", Some(Special::LinkLocal)),
            ("febf::1", Some(Special::LinkLocal)),
            ("fec0::1", Some(Special::Reserved)), // site-local, deprecated
            ("ff02::1", Some(Special::Multicast)),
        ] {
            assert_eq!(special(ip(text)), expect, "{text}");
        }
    }

    #[test]
    fn the_operator_adds_ranges() {
        let policy = AddressPolicy::new(vec!["10.1.0.0/16".parse().unwrap(), "::1".parse().unwrap()]);
        for (text, allowed) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("64:ff9b::10.1.2.3", true),
            ("10.2.0.0", false),
            ("::1", true),
            ("127.0.0.1", false),
            ("8.8.8.8", true),
        ] {
            assert_eq!(policy.check(ip(text)).is_ok(), allowed, "{text}");
        }
    }

    #[test]
    fn only_a_single_address_is_named_alone() {
        let policy = AddressPolicy::new(
            ["10.0.0.0/8", "10.1.2.3", "fd00::/64", "fd00::7/128"].map(|range| range.parse().unwrap()).into(),
        );
        for (text, alone) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.1.2.4", false),
            ("fd00::7", true),
            ("fd00::8", false),
            ("8.8.8.8", false),
        ] {
            assert_eq!(policy.names_alone(ip(text)), alone, "{text}");
        }
    }

    #[test]
    fn ranges_are_read_strictly() {
        for (text, shown) in [("10.0.0.0/8", "10.0.0.0/8"), ("1.2.3.4", "1.2.3.4/32"), ("::/0", "::/0")] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), shown);
        }
        for bad in ["", "10/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::ffff:10.0.0.0/104", "a/8", "::/129"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains(ip("255.1.2.3")));
        assert!(!"0.0.0.0/0".parse::<Cidr>().unwrap().contains(ip("2606::1")));
    }

    proptest! {
        #[test]
        fn wrapping_an_address_changes_nothing(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let expect = special(v4.into());
            prop_assert_eq!(special(v4.to_ipv6_mapped().into()), expect);
            prop_assert_eq!(special(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into()), expect);
        }

        #[test]
        fn standard_library_and_table_agree(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let known = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            prop_assert!(!known || special(v4.into()).is_some());
        }

        #[test]
        fn a_range_contains_what_shares_its_prefix(base: u32, other: u32, prefix in 0u8..=32) {
            let range = Cidr { base: Ipv4Addr::from(base).into(), prefix };
            let mask = if prefix == 0 { 0 } else { u32::MAX << (32 - u32::from(prefix)) };
            prop_assert_eq!(range.contains(Ipv4Addr::from(other).into()), base & mask == other & mask);
        }
    }
}

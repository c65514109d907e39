//! Two gateways (or more) over real sockets, with views and certificates made here.

mod datagrams;
mod drain;
mod floods;
mod flows;
mod health;
mod holes;
mod readers;
mod refusals;
mod relay;
mod replays;
mod transports;
mod unmeshed;
pub(crate) mod world;

//! Discovery resources: the first byte says which kind, or which JSON document inside one.
#![no_main]

use std::fmt::Debug;

use api::discovery as wire;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fn check<W, M>(bytes: &[u8])
where
    W: Message + Default + for<'a> From<&'a M>,
    M: for<'a> TryFrom<&'a W> + PartialEq + Debug,
{
    if let Ok(message) = W::decode(bytes) {
        convert::<W, M>(&message);
    }
}

/// What is accepted survives the way over the wire.
fn convert<W, M>(message: &W)
where
    W: Message + Default + for<'a> From<&'a M>,
    M: for<'a> TryFrom<&'a W> + PartialEq + Debug,
{
    let Ok(model) = M::try_from(message) else { return };
    let again = W::decode(W::from(&model).encode_to_vec().as_slice()).expect("what was encoded decodes");
    let Ok(same) = M::try_from(&again) else { panic!("refused on the second way: {model:?}") };
    assert_eq!(model, same);
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let (namespace, name, config) = ("default".to_owned(), "reviews".to_owned(), bytes.to_vec());
    match kind % 9 {
        0 => check::<wire::Mesh, mesh::MeshInfo>(bytes),
        1 => check::<wire::Service, mesh::Service>(bytes),
        2 => check::<wire::Cluster, mesh::RemoteCluster>(bytes),
        3 => check::<wire::LocalGateway, mesh::LocalGateway>(bytes),
        4 => check::<wire::Workload, mesh::Workload>(bytes),
        5 => check::<wire::HostEntry, mesh::HostEntry>(bytes),
        6 => check::<wire::Secret, mesh::Secret>(bytes),
        7 => {
            let service = wire::Service { namespace, name, config, ..wire::Service::default() };
            convert::<wire::Service, mesh::Service>(&service);
        }
        _ => {
            let workload = wire::Workload { namespace, name, config, ..wire::Workload::default() };
            convert::<wire::Workload, mesh::Workload>(&workload);
        }
    }
});

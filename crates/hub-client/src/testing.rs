//! A hub for tests: real TLS and gRPC, answers as told.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use api::hub::hub_server::{Hub, HubServer};
use api::hub::join_server::{Join, JoinServer};
use api::hub::{
    AddMemberRequest, CreateTokenRequest, CreateTokenResponse, DrainClusterRequest, JoinRequest, JoinResponse,
    LeaveClusterRequest, ListAuditRequest, ListAuditResponse, ListTokensRequest, ListTokensResponse, MembershipChange,
    MembershipResponse, ReadRequest, ReadResponse, RemoveMemberRequest, RenewLeaseRequest, RenewLeaseResponse,
    RevokeTokenRequest, RevokeTokenResponse, StatusRequest, StatusResponse, TransactRequest, TransactResponse,
    UndrainClusterRequest, WatchRequest, WatchResponse,
};
use identity::{Credentials, PeerPolicy, Svid, TrustBundle, TrustBundles};
use mesh::{MeshId, TrustDomain};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use crate::{InitRequest, Member, OperatorCredential, init};

/// Files of a hub with one node in a directory of their own.
pub(crate) struct Files {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) operator: OperatorCredential,
}

pub(crate) fn files() -> Files {
    let dir = tempfile::tempdir().unwrap();
    let members = vec![Member { id: 1, api: "127.0.0.1:1".to_owned(), join: "127.0.0.1:2".to_owned() }];
    let mesh_id = MeshId::new("demo").unwrap();
    init(&InitRequest { mesh_id, dir: dir.path().to_owned(), members }).unwrap();
    let operator = OperatorCredential::load(&dir.path().join("operator.json")).unwrap();
    Files { dir, operator }
}

impl Files {
    /// What node 1 proves itself with.
    pub(crate) fn node(&self) -> Credentials {
        let tls = self.dir.path().join("hub-1/tls");
        let read = |name: &str| std::fs::read_to_string(tls.join(name)).unwrap();
        let svid = Svid::from_pem(&read("node.crt"), &read("node.key")).unwrap();
        let domain = TrustDomain::new("hub.demo").unwrap();
        let bundle = TrustBundle::from_pem(domain, 0, &read("hub-ca.crt")).unwrap();
        Credentials::fixed(svid, TrustBundles::from(bundle))
    }

    /// A certificate of another account by the same root.
    pub(crate) fn account(&self, account: &str) -> Credentials {
        let ca = identity::ClusterCa::load(&self.dir.path().join("ca")).unwrap();
        let id = mesh::SpiffeId::system(ca.trust_domain().clone(), account).unwrap();
        let svid = ca.issue_self(&id, Duration::from_secs(600), SystemTime::now()).unwrap();
        let mut chain = svid.chain().to_vec();
        chain.push(ca.root_der().clone());
        let pem = identity::files::certs_to_pem(&chain);
        let svid = Svid::from_pem(&pem, &svid.private_key_pem()).unwrap();
        Credentials::fixed(svid, TrustBundles::from(ca.bundle(0).unwrap()))
    }

    pub(crate) fn ca_hash(&self) -> String {
        let ca = identity::ClusterCa::load(&self.dir.path().join("ca")).unwrap();
        identity::root_hash(ca.root_der())
    }

    pub(crate) fn data_dir(&self) -> &Path {
        self.dir.path()
    }
}

type Messages = mpsc::Receiver<Result<WatchResponse, Status>>;
type Answer = Arc<dyn Fn() -> Result<(), Status> + Send + Sync>;
type JoinAnswer = Arc<dyn Fn(&JoinRequest) -> Result<JoinResponse, Status> + Send + Sync>;

/// One node: what it answers, and what it was asked.
#[derive(Clone)]
pub(crate) struct FakeNode {
    answer: Answer,
    join: JoinAnswer,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    pub(crate) joins: Arc<Mutex<Vec<JoinRequest>>>,
    watch: Arc<Mutex<Option<Messages>>>,
}

impl FakeNode {
    pub(crate) fn new(answer: impl Fn() -> Result<(), Status> + Send + Sync + 'static) -> Self {
        Self {
            answer: Arc::new(answer),
            join: Arc::new(|_| Err(Status::unimplemented("no joins"))),
            asked: Arc::default(),
            joins: Arc::default(),
            watch: Arc::default(),
        }
    }

    pub(crate) fn joining(
        mut self,
        join: impl Fn(&JoinRequest) -> Result<JoinResponse, Status> + Send + Sync + 'static,
    ) -> Self {
        self.join = Arc::new(join);
        self
    }

    /// What its next watch carries.
    pub(crate) fn watching(self, messages: Messages) -> Self {
        *self.watch.lock().unwrap() = Some(messages);
        self
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn note(&self, what: &str) -> Result<(), Status> {
        self.asked.lock().unwrap().push(what.to_owned());
        (self.answer)()
    }

    /// Serves the API (mutual TLS) and the join service (open TLS) and returns the two addresses.
    pub(crate) async fn serve(&self, credentials: Credentials) -> (String, String) {
        let api = credentials.server_config(PeerPolicy::AnyKnown, &[b"h2"]).unwrap();
        let open = credentials.server_config_open(&[b"h2"]).unwrap();
        let (api_in, api_address) = incoming(api).await;
        let (join_in, join_address) = incoming(open).await;
        tokio::spawn(Server::builder().add_service(HubServer::new(self.clone())).serve_with_incoming(api_in));
        tokio::spawn(Server::builder().add_service(JoinServer::new(self.clone())).serve_with_incoming(join_in));
        (api_address, join_address)
    }
}

type Incoming = ReceiverStream<Result<Accepted, std::io::Error>>;

async fn incoming(config: Arc<tokio_rustls::rustls::ServerConfig>) -> (Incoming, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let accepted = identity::accept_tls_open(config.clone(), tcp, Duration::from_secs(5)).await;
            if let Ok(tls) = accepted
                && sender.send(Ok(Accepted(tls))).await.is_err()
            {
                return;
            }
        }
    });
    (ReceiverStream::new(receiver), address)
}

struct Accepted(TlsStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

macro_rules! fake {
    ($($name:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl Hub for FakeNode {
            type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

            async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
                self.note(&format!("watch {}", request.get_ref().revision))?;
                let messages = self.watch.lock().unwrap().take();
                let messages = messages.ok_or_else(|| Status::unavailable("no watch here"))?;
                Ok(Response::new(ReceiverStream::new(messages)))
            }

            $(async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                self.note(&format!("{} {:?}", stringify!($name), request.get_ref()))?;
                Ok(Response::new(<$response>::default()))
            })*
        }
    };
}

fake! {
    transact(TransactRequest) -> TransactResponse;
    read(ReadRequest) -> ReadResponse;
    renew_lease(RenewLeaseRequest) -> RenewLeaseResponse;
    drain_cluster(DrainClusterRequest) -> MembershipChange;
    undrain_cluster(UndrainClusterRequest) -> MembershipChange;
    leave_cluster(LeaveClusterRequest) -> MembershipChange;
    create_token(CreateTokenRequest) -> CreateTokenResponse;
    list_tokens(ListTokensRequest) -> ListTokensResponse;
    revoke_token(RevokeTokenRequest) -> RevokeTokenResponse;
    status(StatusRequest) -> StatusResponse;
    list_audit(ListAuditRequest) -> ListAuditResponse;
    add_member(AddMemberRequest) -> MembershipResponse;
    remove_member(RemoveMemberRequest) -> MembershipResponse;
}

#[tonic::async_trait]
impl Join for FakeNode {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        let answer = (self.join)(&request);
        self.joins.lock().unwrap().push(request);
        answer.map(Response::new)
    }
}

//! The HTTP side: who listens, what is logged, when it stops.

mod agent;
mod auth;
mod body;
mod drain;
mod exec;
mod exec_socket;
mod files;
mod idempotency;
mod listen;
mod routes;
mod sandboxes;
mod snapshots;
mod system;
mod trace;
mod turns;
mod workload;

pub use auth::{Token, TokenError};
pub use listen::Listen;

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use thiserror::Error;
use tine_cell::fault::with_causes;
use tine_cell::warden::WardenError;
use tine_cell::{Nursery, NurseryConfig};
use tine_vmm::KvmHost;
use tine_vmm::kvm::{Backend, KvmError};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::audit::{Audit, AuditError, Entry, Event};
use crate::engine::Engine;
use crate::problem::Problem;
pub use crate::registry::Limits;
use crate::registry::{Lost, MAX_OPERATIONS, Records, RecordsError, Registry};
use drain::Drain;
use listen::bind_unix;
use turns::Turns;

/// How often sandboxes are looked through for those whose time is up.
const EXPIRY_PERIOD: Duration = Duration::from_millis(200);
/// How long connections may take to close when all sandboxes are gone.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How the daemon is to run.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where images of Linux guests are; none, and there are none.
    pub images: Option<PathBuf>,
    /// Where it listens.
    pub listen: Listen,
    /// File with the token; made when absent.
    pub token_file: PathBuf,
    /// What it admits.
    pub limits: Limits,
    /// Whether it may listen where other machines reach it.
    pub allow_remote: bool,
    /// How the cells of sandboxes are made; none, and all sandboxes are in this process.
    pub cells: Option<NurseryConfig>,
    /// Where it keeps records of what it holds; none, and it keeps none.
    pub state: Option<PathBuf>,
    /// File that the audit log is appended to.
    pub audit_log: Option<PathBuf>,
    /// How long requests under way may take to end when the daemon stops.
    pub drain: Duration,
}

impl ServeOptions {
    /// Without images, for a host of 4 GiB, and what else is usual.
    pub fn new(listen: Listen, token_file: PathBuf) -> Self {
        Self {
            images: None,
            listen,
            token_file,
            limits: Limits::for_host(4 << 30),
            allow_remote: false,
            state: None,
            audit_log: None,
            cells: Some(NurseryConfig::default()),
            drain: Duration::from_secs(5),
        }
    }
}

/// What can keep the daemon from running.
#[derive(Debug, Error)]
pub enum ServeError {
    /// KVM can't be used.
    #[error("KVM can't be used; `tine doctor` says more")]
    Kvm(#[from] KvmError),
    /// Cells can't be made.
    #[error(
        "sandboxes can't be confined; mend that, or run without namespaces \
         (--allow-unconfined) or all sandboxes in the daemon's process (--in-process)"
    )]
    Cells(#[from] WardenError),
    /// The token file can't be used.
    #[error("the token")]
    Token(#[from] TokenError),
    /// The records can't be used.
    #[error("the records of what the daemon holds")]
    Records(#[from] RecordsError),
    /// The audit log can't be used.
    #[error("the audit log")]
    Audit(#[from] AuditError),
    /// It would listen to the world.
    #[error(
        "{0} can be reached from other machines; listen on 127.0.0.1 or a Unix socket, or allow it with --allow-remote"
    )]
    Remote(SocketAddr),
    /// It can't listen.
    #[error("listening on {listen} failed")]
    Listen {
        /// Where.
        listen: Listen,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not go on serving.
    #[error("serving failed")]
    Serve(#[source] io::Error),
}

/// What was killed when the daemon stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopReport {
    /// Ids of the sandboxes that still ran.
    pub killed: Vec<String>,
}

/// What every handler shares.
#[derive(Clone)]
pub(crate) struct App {
    registry: Arc<Registry>,
    token: Token,
    answers: idempotency::Answers,
    turns: Turns,
    /// Guests may be at work for minutes: they have turns of their own, or whoever wants
    /// to fork, pause or look would wait for them.
    guests: Arc<Semaphore>,
    /// What a daemon before this one left when it died.
    lost: Arc<Vec<Lost>>,
    audit: Audit,
    drain: Drain,
}

impl App {
    /// Does blocking `work` on a thread made for that, when its turn has come; requests with
    /// different keys have turns alternately. It is done to the end even if the client goes away.
    async fn blocking<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Registry) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.turns.take(key).await?;
        self.on_thread(turn, work).await
    }

    /// The same, but `work` that is `quick` is done on this thread: the way to another one and back
    /// takes longer.
    async fn quickly<T: Send + 'static>(
        &self,
        key: &str,
        quick: impl FnOnce(&Registry) -> bool,
        work: impl FnOnce(&Registry) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.turns.take(key).await?;
        if !quick(&self.registry) {
            return self.on_thread(turn, work).await;
        }
        let _held = (turn, self.drain.enter());
        let _operation = self.registry.metrics.operation();
        catch_unwind(AssertUnwindSafe(|| work(&self.registry)))
            .unwrap_or_else(|_| Err(Problem::internal("the operation died")))
    }

    /// The same for `work` that waits for a guest.
    async fn waiting<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Registry) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let stopping = |_| Problem::unavailable("the daemon is stopping");
        let turn = Arc::clone(&self.guests).acquire_owned().await.map_err(stopping)?;
        self.on_thread(turn, work).await
    }

    /// Does blocking `work` at once: to look at what exists, or to end it, which must be
    /// possible however much is going on.
    async fn at_once<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Registry) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.on_thread((), work).await
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        turn: impl Send + 'static,
        work: impl FnOnce(&Registry) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let registry = Arc::clone(&self.registry);
        let under_way = self.drain.enter();
        let done = tokio::task::spawn_blocking(move || {
            let _held = (turn, under_way);
            let _operation = registry.metrics.operation();
            work(&registry)
        });
        done.await
            .unwrap_or_else(|error| Err(Problem::internal(format!("the operation died: {error}"))))
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Leaves no socket behind.
    fn leave(&self) {
        if let Self::Unix(_, path) = self {
            remove_socket(path);
        }
    }
}

fn remove_socket(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "the socket is left");
    }
}

/// A daemon that listens and does not serve yet.
pub struct Server {
    app: App,
    listener: Listener,
}

impl Server {
    /// Opens KVM, loads the token, and listens.
    pub async fn bind(options: &ServeOptions) -> Result<Self, ServeError> {
        if let Listen::Tcp(address) = options.listen
            && !address.ip().is_loopback()
            && !options.allow_remote
        {
            return Err(ServeError::Remote(address));
        }
        let host = Arc::new(KvmHost::open()?);
        match Backend::measure(&host) {
            Ok(backend) => tracing::info!(module = backend.module, ring0 = ?backend.ring0, "KVM"),
            Err(error) => tracing::warn!(%error, "the KVM backend could not be measured"),
        }
        let engine = match &options.cells {
            Some(config) => {
                if !config.confinement.namespaces {
                    tracing::warn!("reduced confinement: cells share the daemon's namespaces");
                }
                let nursery = Nursery::start(config.clone())?;
                match nursery.unlimited() {
                    Some(reason) => tracing::warn!(reason, "sandboxes can't be limited one by one"),
                    None => tracing::info!("sandboxes are limited by cgroups of their own"),
                }
                Engine::Cells(nursery)
            }
            None => {
                tracing::warn!("no confinement: sandboxes share this process");
                Engine::InProcess(host)
            }
        };
        let token = Token::load(&options.token_file)?;
        let asked = options.limits.operations;
        let turns = asked.clamp(1, MAX_OPERATIONS);
        if turns != asked {
            tracing::warn!(asked, turns, "as many operations at once can't be allowed");
        }
        let audit = Audit::open(options.audit_log.as_deref())?;
        let refused = |source| ServeError::Listen { listen: options.listen.clone(), source };
        let listener = match &options.listen {
            Listen::Tcp(address) => {
                Listener::Tcp(TcpListener::bind(address).await.map_err(refused)?)
            }
            Listen::Unix(path) => Listener::Unix(bind_unix(path).map_err(refused)?, path.clone()),
        };
        let mut registry = Registry::new(engine, options.images.clone(), options.limits);
        let mut lost = vec![];
        // When nothing else can fail any more: what is lost is told once.
        if let Some(state) = &options.state {
            let opened = Records::open(state).inspect_err(|_| listener.leave());
            let records;
            (records, lost) = opened?;
            registry = registry.with_records(records, state);
        }
        for Lost { id, image, parent, labels, created_at, .. } in &lost {
            tracing::warn!(id, image, ?labels, created_at, "lost with the daemon before this one");
            audit.write(&Entry { parent: parent.clone(), ..Entry::new(Event::Lost).of(id) });
        }
        // Each is read by a cell, which this thread need not wait for here.
        let registry = tokio::task::spawn_blocking(move || {
            registry.reopen();
            registry
        });
        let registry =
            registry.await.map_err(|error| ServeError::Serve(io::Error::other(error)))?;
        let app = App {
            token,
            answers: idempotency::Answers::default(),
            turns: Turns::new(turns, options.limits.queue, registry.metrics.queue.clone()),
            guests: Arc::new(Semaphore::new(turns)),
            registry: Arc::new(registry),
            lost: Arc::new(lost),
            audit,
            drain: Drain::new(options.drain),
        };
        Ok(Self { app, listener })
    }

    /// Where it listens: the port that the kernel chose, if it was asked to.
    pub fn listens_at(&self) -> Result<Listen, ServeError> {
        match &self.listener {
            Listener::Tcp(listener) => {
                listener.local_addr().map(Listen::Tcp).map_err(ServeError::Serve)
            }
            Listener::Unix(_, path) => Ok(Listen::Unix(path.clone())),
        }
    }

    /// Serves until `shutdown`, finishes what is under way, kills what still runs, and says what
    /// did.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<StopReport, ServeError> {
        self.run_until(shutdown, std::future::pending()).await
    }

    /// The same, which from `at_once` on waits for no requests any more.
    pub async fn run_until(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
        at_once: impl Future<Output = ()> + Send + 'static,
    ) -> Result<StopReport, ServeError> {
        let Self { app, listener } = self;
        let audit = app.audit.clone();
        audit.write(&Entry::new(Event::Start));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (hurry, hurried) = tokio::sync::watch::channel(false);
        let until = |mut stopped: tokio::sync::watch::Receiver<bool>| async move {
            let _sender_gone = stopped.wait_for(|stop| *stop).await;
        };
        let registry = Arc::clone(&app.registry);
        let impatience = tokio::spawn(async move {
            at_once.await;
            hurry.send_replace(true);
            hurry.closed().await;
        });
        let killer = tokio::spawn({
            let (registry, drain) = (Arc::clone(&registry), app.drain.clone());
            let hurried = hurried.clone();
            async move {
                shutdown.await;
                tokio::select! {
                    () = drain.run() => {}
                    () = until(hurried) => tracing::warn!("stopping at once"),
                }
                // Sandboxes go first: whoever waits for them gets an answer.
                let closed = tokio::task::spawn_blocking(move || {
                    let killed = registry.close();
                    if let Err(error) = registry.flush() {
                        let error = with_causes(&error);
                        tracing::error!(error, "the next daemon will take sandboxes for lost");
                    }
                    killed
                });
                let killed = closed.await;
                stop.send_replace(true);
                killed.unwrap_or_default()
            }
        });
        let reaper = tokio::spawn({
            let (registry, audit) = (Arc::clone(&registry), audit.clone());
            async move {
                loop {
                    tokio::time::sleep(EXPIRY_PERIOD).await;
                    let registry = Arc::clone(&registry);
                    let look = move || {
                        registry.record_hot_sets();
                        registry.expire()
                    };
                    match tokio::task::spawn_blocking(look).await {
                        Ok(expired) => {
                            for id in expired {
                                audit.write(&Entry::new(Event::Expire).of(id));
                            }
                        }
                        Err(error) => {
                            tracing::error!(%error, "killing sandboxes at their timeout failed");
                        }
                    }
                }
            }
        });
        let router = routes::router(app);
        let drained = until(stopped.clone());
        let socket = match &listener {
            Listener::Tcp(_) => None,
            Listener::Unix(_, path) => Some(path.clone()),
        };
        let serving = async {
            match listener {
                Listener::Tcp(listener) => {
                    let listener = listener.tap_io(|stream| {
                        if let Err(error) = stream.set_nodelay(true) {
                            tracing::debug!(%error, "TCP_NODELAY");
                        }
                    });
                    let service = router.into_make_service_with_connect_info::<SocketAddr>();
                    axum::serve(listener, service).with_graceful_shutdown(until(stopped)).await
                }
                Listener::Unix(listener, _) => {
                    axum::serve(listener, router).with_graceful_shutdown(until(stopped)).await
                }
            }
        };
        let limit = async {
            drained.await;
            tokio::select! {
                () = tokio::time::sleep(CLOSE_LIMIT) => {}
                () = until(hurried) => {}
            }
        };
        let served = tokio::select! {
            served = serving => served,
            () = limit => Ok(()),
        };
        reaper.abort();
        impatience.abort();
        if let Some(path) = socket {
            remove_socket(&path);
        }
        served.map_err(ServeError::Serve)?;
        let killed = killer.await.unwrap_or_default();
        let (sandboxes, count) = (killed.clone(), Some(killed.len()));
        audit.write(&Entry { sandboxes, count, ..Entry::new(Event::Stop) });
        Ok(StopReport { killed })
    }
}

//! Which path leads where, and what every request goes through.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    App, drain, exec, exec_socket, files, idempotency, sandboxes, snapshots, system, trace,
    workload,
};
use crate::problem::Problem;

/// The API's description, to which the handlers add themselves.
#[derive(OpenApi)]
#[openapi(
    info(title = "tine", description = "Forks microVMs copy-on-write."),
    modifiers(&Bearer),
    security(("token" = []))
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        description.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// Every route of the daemon.
pub(super) fn router(app: App) -> Router {
    let guarded = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(sandboxes::list, sandboxes::spawn))
        .routes(routes!(sandboxes::lost))
        .routes(routes!(sandboxes::get, sandboxes::remove))
        .routes(routes!(sandboxes::fork))
        .routes(routes!(sandboxes::pause))
        .routes(routes!(sandboxes::resume))
        .routes(routes!(sandboxes::reset))
        .routes(routes!(sandboxes::memory))
        .routes(routes!(sandboxes::console, sandboxes::console_input))
        .routes(routes!(snapshots::take))
        .routes(routes!(workload::work))
        .routes(routes!(exec_socket::attach, exec::run))
        .routes(routes!(files::read, files::write, files::remove))
        .routes(routes!(files::rename))
        .routes(routes!(files::mkdir))
        .routes(routes!(snapshots::list))
        .routes(routes!(snapshots::get, snapshots::remove))
        .routes(routes!(system::metrics));
    let open = OpenApiRouter::new().routes(routes!(system::health));
    let (guarded, mut description) = guarded.split_for_parts();
    let (open, more) = open.split_for_parts();
    description.merge(more);
    let described = system::described(&description);
    guarded
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(app.clone(), idempotency::once))
        .layer(from_fn_with_state(app.clone(), let_in))
        .merge(open)
        .merge(described)
        // The open routes; those above have theirs behind the token.
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(app.clone(), trace::trace))
        .layer(from_fn_with_state(app.clone(), drain::count))
        .with_state(app)
}

/// Lets only those in who have the token.
async fn let_in(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.token.admits(request.headers()) {
        return next.run(request).await;
    }
    let detail = "the request must carry the daemon's token: Authorization: Bearer TOKEN";
    Problem::new(StatusCode::UNAUTHORIZED, detail).into_response()
}

async fn no_such_route(request: Request) -> Problem {
    let detail = format!("there is no {}; see /openapi.json", request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn no_such_method(request: Request) -> Problem {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

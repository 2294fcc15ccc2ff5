use axum::{routing::get, Router};

fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    let app = Router::new().route("/", get(|| async { format!("pid {}", std::process::id()) }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        println!("listening");
        axum::serve(listener, app).await.unwrap();
    });
}

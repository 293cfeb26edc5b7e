//! Many tokio tasks on one embedded store.
//!
//! `cargo run -p ashlar-engine --example tokio`

use ashlar_engine::{Result, Store, StoreOptions};

#[tokio::main]
async fn main() -> Result<()> {
    let path = std::env::temp_dir().join(format!("ashlar-tokio-{}.store", std::process::id()));
    let store = Store::open(StoreOptions::new(&path).create(256 << 20)).await?;
    let volume = store.create_volume("vm0", 64 << 20).await?;
    let writers: Vec<_> = (0..64u64)
        .map(|i| {
            let volume = volume.clone();
            tokio::spawn(async move { volume.write(i * 8192, &[i as u8; 8192]).await })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no writer panics")?;
    }
    for i in 0..64u64 {
        assert_eq!(volume.read(i * 8192, 8192).await?, [i as u8; 8192]);
    }
    let status = store.status().await?;
    println!("{} bytes of data, {} batches", status.data_bytes, status.counters.batches);
    store.close().await?;
    std::fs::remove_file(&path).ok();
    Ok(())
}

use criterion::{criterion_group, criterion_main, Criterion};

fn sums(c: &mut Criterion) {
    c.bench_function("sums", |b| b.iter(|| (0..100u32).sum::<u32>()));
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(20))
        .measurement_time(std::time::Duration::from_millis(50));
    targets = sums
}
criterion_main!(benches);

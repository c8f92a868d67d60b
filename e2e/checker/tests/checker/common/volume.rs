//! A volume around segment files.

use std::path::{Path, PathBuf};

use super::boxes::{Built, VOLUME};

/// Where a segment that begins at this wall time lies below the volume.
pub(crate) fn path_below(name: &str, first_wall_us: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(first_wall_us).unwrap();
    let file = time.strftime("%Y-%m-%d/%Y%m%dT%H%M%S");
    format!("streams/{name}/{file}.{:03}Z.mp4", first_wall_us / 1_000 % 1_000)
}

/// Writes a volume with these segments; (name, first wall time, file).
pub(crate) fn write(folder: &Path, segments: &[(&str, i64, &Built)]) -> Vec<PathBuf> {
    let size = segments[0].2.bytes.len();
    let identity = format!(
        "{{\"format\":1,\"pool\":\"default/main\",\"recorder\":\"main-recorder-0\",\"volume\":\"{}\",\
         \"segmentBytes\":{size},\"created\":\"2026-11-21T14:03:00.000Z\",\"opens\":3,\"files\":99,\"closed\":true}}",
        uuid::Uuid::from_u128(VOLUME)
    );
    for below in ["pool", "retired", "streams"] {
        std::fs::create_dir_all(folder.join(below)).unwrap();
    }
    std::fs::write(folder.join("framekeeper.json"), identity).unwrap();
    std::fs::write(folder.join("lock"), b"").unwrap();
    std::fs::write(folder.join("pool/00000099.mp4"), vec![0; size]).unwrap();
    let mut manifest = b"FKMANIF1\0\0\0\0\0\0\0\x05".to_vec();
    let mut paths = Vec::new();
    for (name, wall, built) in segments {
        let path = folder.join(path_below(name, *wall));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &built.bytes).unwrap();
        paths.push(path);
        if !built.record.is_empty() {
            manifest.extend((built.record.len() as u32).to_be_bytes());
            manifest.extend(crc32c::crc32c(&built.record).to_be_bytes());
            manifest.extend(&built.record);
            manifest.resize(manifest.len().next_multiple_of(8), 0);
        }
    }
    std::fs::write(folder.join("manifest.log"), manifest).unwrap();
    paths
}

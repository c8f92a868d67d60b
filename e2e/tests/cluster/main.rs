//! What is promised of a cluster, in one of three nodes. Needs root, and the cluster: run by `make test`, inside of the cluster's network.

mod chaos;
mod control_plane;
mod installation;
mod many;
mod nodes;
mod planned;
mod pools;
mod recording;
mod refusals;
mod site;
mod struck;
mod takeover;

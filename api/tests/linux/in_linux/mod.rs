mod chains;
mod common;
mod devices;
mod endings;
mod identity;
mod load;
mod service;
mod state;

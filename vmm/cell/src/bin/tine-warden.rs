//! A warden on its own, for the tests of this crate: `tine warden` is the same.

fn main() -> std::io::Result<()> {
    tine_cell::warden::main()
}

//! The lab's control program inside a guest; see [`vmtide_lab::guest`].

fn main() {
    vmtide_lab::guest::serve()
}

fn main() { println!("ulpm"); }

mod ends;
mod hostile;
mod hybrid;
mod reset;
mod streams;

// Command liege: see docs/architecture.md.
package main

func main() {}

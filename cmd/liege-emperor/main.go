// Command liege-emperor: see docs/architecture.md.
package main

func main() {}

// Command liege-core: see docs/architecture.md.
package main

func main() {}

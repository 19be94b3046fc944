// Command liege-sendmail is /usr/sbin/sendmail inside a sandbox: package
// sendmail.
package main

import (
	"os"

	"liege/sendmail"
)

func main() { os.Exit(sendmail.Main()) }

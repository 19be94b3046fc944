// Command micro is /init of a micro machine of package e2e/vm: it loads the
// SELinux policy /policy, enforces it, runs /tests with its output on the
// second serial line, reports as package vm wants it, and powers off.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("micro:", err) // the kernel's console
	}
	// Where the machine cannot be powered off the kernel panics at the end of
	// its init, which ends it too.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"selinuxfs", "/sys/fs/selinux"},
	} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	port, err := openPort("/dev/ttyS1")
	if err != nil {
		return err
	}
	defer port.Close()
	fmt.Fprintln(port, "liege-vm: up")
	if err := loadPolicy(); err != nil {
		fmt.Fprintln(port, err)
		return err
	}
	cmd := exec.Command("/tests", "-test.v", "-test.timeout=1m")
	cmd.Stdout, cmd.Stderr = port, port
	cmd.Env = []string{"TEST_HAVE=micro,enforcing,selinux,root", "TMPDIR=/tmp"}
	err = cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		return err
	}
	_, err = fmt.Fprintln(port, "liege-vm: exit", cmd.ProcessState.ExitCode())
	return err
}

// openPort opens a serial line that passes on what is written as it is.
func openPort(path string) (*os.File, error) {
	port, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	raw := unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200}
	if err := unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return port, nil
}

func loadPolicy() error {
	policy, err := os.ReadFile("/policy")
	if err != nil {
		return err
	}
	const selinuxfs = "/sys/fs/selinux"
	if err := os.WriteFile(filepath.Join(selinuxfs, "load"), policy, 0); err != nil {
		return fmt.Errorf("load the policy: %w", err)
	}
	return os.WriteFile(filepath.Join(selinuxfs, "enforce"), []byte("1"), 0)
}

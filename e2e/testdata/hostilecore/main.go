// Command hostilecore is a liege-core whose tenant has taken it over: it says
// hello and ready as the real one does, and then does with its descriptors
// what the file "attack" in the app's directory says:
//
//	serve           answer every request
//	escape ADDR…    take every socket apart and connect it to each ADDR
//	shutdown        shut the listeners down
//	disconnect      disconnect the listeners with connect(AF_UNSPEC)
//
// What came of it goes to stdout, one line each. With --bare=ATTACK it does
// the same with its descriptors without an Emperor: the negative control.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"liege/serve/control"
	"liege/vassal"
)

func main() {
	app := flag.Int("app", -1, "")
	channel := flag.Int("control", -1, "")
	bare := flag.String("bare", "", "")
	flag.Parse()
	if *bare != "" {
		attack(*bare)
		return
	}
	if err := run(*app, *channel); err != nil {
		fmt.Println("hostile core:", err)
		os.Exit(1)
	}
}

func run(appFD, channelFD int) error {
	// The real core marks them so; this one attacks what a process can hold.
	var app vassal.App
	b := make([]byte, 1<<20)
	n, err := unix.Pread(appFD, b, 0)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b[:n], &app); err != nil {
		return err
	}
	if err := os.Chdir(app.Dir); err != nil {
		return err
	}
	// A duplicate: the original stays where the attack finds it.
	dup, err := unix.Dup(channelFD)
	if err != nil {
		return err
	}
	c, err := control.Open(os.NewFile(uintptr(dup), "control"))
	if err != nil {
		return err
	}
	if err := c.Send(vassal.Message{Type: vassal.Hello}); err != nil {
		return err
	}
	if m, err := c.Receive(); err != nil || m.Type != vassal.Verified {
		return fmt.Errorf("%v, %v", m, err)
	}
	if err := c.Send(vassal.Message{Type: vassal.Ready}); err != nil {
		return err
	}
	go func() {
		what, err := os.ReadFile("attack")
		if err != nil {
			fmt.Println(err)
			return
		}
		attack(strings.TrimSpace(string(what)))
	}()
	for {
		switch m, err := c.Receive(); {
		case errors.Is(err, io.EOF): // its Emperor was killed; the real one serves on
			if err := unix.Pause(); err != nil {
				return err
			}
		case err != nil || m.Type == vassal.Drain:
			return err
		}
	}
}

func attack(what string) {
	f := strings.Fields(what)
	switch f[0] {
	case "serve":
		serve()
	case "escape":
		escape(f[1:])
	case "shutdown", "disconnect":
		for _, fd := range sockets() {
			if on, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); on == 0 {
				continue
			}
			if f[0] == "shutdown" {
				fmt.Println("shutdown:", unix.Shutdown(fd, unix.SHUT_RDWR))
				continue
			}
			fmt.Println("disconnect:", disconnect(fd))
		}
	}
	fmt.Println("attack is over")
}

func serve() {
	for _, fd := range sockets() {
		if on, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); on == 0 {
			continue
		}
		ln, err := net.FileListener(os.NewFile(uintptr(fd), "listener"))
		if err != nil {
			fmt.Println(err)
			continue
		}
		go func() {
			fmt.Println(http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "serving") })))
		}()
	}
}

// sockets lists the sockets that this process holds.
func sockets() []int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		fmt.Println(err)
	}
	var out []int
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err == nil {
			out = append(out, fd)
		}
	}
	return out
}

// escape waits for a connection and then connects it, and every other socket,
// to each address.
func escape(addrs []string) {
	all := sockets()
	for _, fd := range all {
		unix.SetNonblock(fd, false)
		if on, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); on == 0 {
			continue
		}
		conn, _, err := unix.Accept(fd)
		if err != nil {
			fmt.Println("accept:", err)
			continue
		}
		try("accepted", conn, addrs)
	}
	for _, fd := range all {
		try("fd", fd, addrs)
	}
	fresh, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		fmt.Println("socket:", err)
		return
	}
	try("fresh", fresh, addrs)
}

func try(what string, fd int, addrs []string) {
	domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	kind, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	on, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if on != 0 {
		what = "listener"
	}
	if domain == unix.AF_INET && what != "fresh" {
		fmt.Printf("%s domain %d type %d to a port of its choice: %s\n", what, domain, kind, rebind(fd))
	}
	for _, a := range addrs {
		fmt.Printf("%s domain %d type %d to %s: %s\n", what, domain, kind, a, reconnect(fd, a))
	}
}

func disconnect(fd int) error {
	sa := unix.RawSockaddrInet4{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet4)
	if errno != 0 {
		return errno
	}
	return nil
}

// rebind makes a server of a disconnected socket.
func rebind(fd int) string {
	if err := disconnect(fd); err != nil {
		return "disconnect: " + err.Error()
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err.Error()
	}
	return "bound"
}

func reconnect(fd int, addr string) string {
	if err := disconnect(fd); err != nil {
		return "disconnect: " + err.Error()
	}
	host, port, _ := net.SplitHostPort(addr)
	p, _ := strconv.Atoi(port)
	sa := &unix.SockaddrInet4{Port: p}
	copy(sa.Addr[:], net.ParseIP(host).To4())
	if err := unix.Connect(fd, sa); err != nil {
		return err.Error()
	}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	b := make([]byte, 64)
	n, err := unix.Read(fd, b)
	if err != nil {
		return "connected, read: " + err.Error()
	}
	return "connected: " + string(b[:n])
}

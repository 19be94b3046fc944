// Package testmail is a mail server for tests: it takes every message and keeps
// it.
//
//	sink := testmail.New(t, "127.0.0.1:0")
//	… send to sink.Addr()
//	m := sink.Next()
package testmail

import (
	"bufio"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"
)

// Message is one message as it came.
type Message struct {
	From string   // the argument of MAIL FROM:
	To   []string // those of RCPT TO:
	Text string   // dots and CR taken away
}

// Patience is how long Next waits.
const Patience = time.Minute

// Sink is a mail server.
type Sink struct {
	t     testing.TB
	ln    net.Listener
	got   chan Message
	all   sync.WaitGroup
	reply func(command string) string

	mu    sync.Mutex
	conns map[net.Conn]bool
	said  []string
}

// New serves at address, a TCP address or the path of a unix socket, until the
// test ends.
func New(t testing.TB, address string) *Sink { return Scripted(t, address, nil) }

// Scripted is New with answers of its own: reply gets each command, "" for the
// greeting and "." for the end of a message, and returns the answer; an empty
// one is the usual, "close" ends the connection.
func Scripted(t testing.TB, address string, reply func(command string) string) *Sink {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s := &Sink{t: t, ln: ln, got: make(chan Message, 1000), reply: reply, conns: map[net.Conn]bool{}}
	s.all.Go(s.accept)
	t.Cleanup(s.stop)
	return s
}

// Addr is where it serves.
func (s *Sink) Addr() string { return s.ln.Addr().String() }

// Next returns the next message.
func (s *Sink) Next() Message {
	s.t.Helper()
	select {
	case m := <-s.got:
		return m
	case <-time.After(Patience):
		s.t.Fatal("no mail came")
		return Message{}
	}
}

// Count is how many messages wait for Next.
func (s *Sink) Count() int { return len(s.got) }

// Said are all commands so far.
func (s *Sink) Said() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.said...)
}

func (s *Sink) stop() {
	s.ln.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.all.Wait()
}

func (s *Sink) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.conns == nil {
			c.Close()
		} else {
			s.conns[c] = true
			s.all.Go(func() { s.serve(c) })
		}
		s.mu.Unlock()
	}
}

func (s *Sink) forget(c net.Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// say answers command; over tells that the connection has ended.
func (s *Sink) say(c net.Conn, command, usual string) (code string, over bool) {
	answer := usual
	if s.reply != nil {
		if own := s.reply(command); own != "" {
			answer = own
		}
	}
	if answer == "close" {
		return "", true
	}
	_, err := c.Write([]byte(answer + "\r\n"))
	return answer[:min(1, len(answer))], err != nil || answer[0] == '4' && strings.HasPrefix(answer, "421")
}

func (s *Sink) serve(c net.Conn) {
	defer s.forget(c)
	r := textproto.NewReader(bufio.NewReader(c))
	var m Message
	if _, over := s.say(c, "", "220 sink.example ESMTP"); over {
		return
	}
	for {
		line, err := r.ReadLine()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.said = append(s.said, line)
		s.mu.Unlock()
		verb, arg, _ := strings.Cut(line, " ")
		usual := "250 2.0.0 Ok"
		switch strings.ToUpper(verb) {
		case "EHLO":
			usual = "250-sink.example\r\n250-PIPELINING\r\n250-SIZE 20000000\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250-CHUNKING\r\n250 8BITMIME"
		case "DATA":
			usual = "354 go on"
		case "QUIT":
			usual = "221 2.0.0 Bye"
		}
		code, over := s.say(c, line, usual)
		if over {
			return
		}
		switch ok := code == "2" || code == "3"; strings.ToUpper(verb) {
		case "MAIL":
			if ok {
				m = Message{From: arg[len("FROM:"):]}
			}
		case "RCPT":
			if ok {
				m.To = append(m.To, arg[len("TO:"):])
			}
		case "DATA":
			if code != "3" {
				continue
			}
			text, err := r.ReadDotBytes()
			if err != nil {
				return
			}
			m.Text = string(text)
			code, over := s.say(c, ".", "250 2.0.0 Ok: queued as 4711")
			if over {
				return
			}
			if code == "2" {
				s.got <- m
			}
			m = Message{}
		case "QUIT":
			return
		}
	}
}

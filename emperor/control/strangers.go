package control

import (
	"context"
	"slices"
	"time"

	"liege/vassal"
)

// Limits of strangers: users who are neither root nor in the control group. Their
// socket is everybody's, and a hostile user may connect as fast as it can, with
// the many uids of a user namespace too. Whoever runs no vassal is turned away
// before a byte is read; the others share few places, which are never those of
// root and the group, and have a rate each.
const (
	MaxStrangers   = 48               // connections at once
	MaxUserClients = 4                // connections at once of one uid
	StrangerTime   = 10 * time.Minute // of one request
	// Each pattern is compared with each name.
	StrangerRequest = 4 << 10 // bytes
	StrangerNames   = 16
	strangerBurst   = 20 // requests of one uid at once,
	strangerEvery   = 200 * time.Millisecond
	usersFresh      = 100 * time.Millisecond // how long it is believed who runs no vassal
	refreshEvery    = time.Second            // between looks at all files that strangers ask for
)

// stranger is what is known of one uid that runs a vassal.
type stranger struct {
	clients int
	credit  float64
	at      time.Time // when credit was right
}

// full reports whether p may do everything but Admin.
func (s *Server) full(p peer) bool {
	return p.uid == 0 || s.Group >= 0 && slices.Contains(p.groups, uint32(s.Group))
}

// admit lets p in, or says why not. Every admission ends with leave.
func (s *Server) admit(p peer) (code int, word, message, hint string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const busy, again = "too many requests at once", "try again in a moment"
	if s.full(p) {
		if s.total >= MaxClients || p.uid != 0 && s.total >= MaxClients*3/4 {
			return 75, vassal.CodeBusy, busy, again
		}
		s.total++
		return 0, "", "", ""
	}
	now := time.Now()
	who := s.knownLocked(p.uid, now)
	if who == nil {
		return 77, vassal.CodeNotPermitted, "not permitted: this user runs no vassal", "sudo, or be in the control group"
	}
	who.credit = min(strangerBurst, who.credit+now.Sub(who.at).Seconds()/strangerEvery.Seconds())
	who.at = now
	if s.strange >= MaxStrangers || who.clients >= MaxUserClients || who.credit < 1 {
		return 75, vassal.CodeBusy, busy, again
	}
	who.credit--
	who.clients++
	s.strange++
	return 0, "", "", ""
}

// knownLocked returns what is known of a uid that runs a vassal, else nil. However
// many ask, who does is looked up a few times a second.
func (s *Server) knownLocked(uid uint32, now time.Time) *stranger {
	if who := s.users[uid]; who != nil && now.Sub(s.usersAt) < time.Second {
		return who
	}
	if s.users == nil || now.Sub(s.usersAt) >= usersFresh {
		users := map[uint32]*stranger{}
		for _, u := range s.Backend.Users() {
			if u > 0 {
				users[uint32(u)] = &stranger{credit: strangerBurst, at: now}
			}
		}
		for u, who := range s.users {
			if users[u] != nil || who.clients > 0 {
				users[u] = who // a vassal that comes and goes brings no credit
			}
		}
		s.users, s.usersAt = users, now
	}
	return s.users[uid]
}

func (s *Server) leave(p peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full(p) {
		s.total--
		return
	}
	s.strange--
	if who := s.users[p.uid]; who != nil {
		who.clients--
	}
}

// shared is a look at all files that several strangers wait for.
type shared struct {
	done chan struct{}
	err  error
}

// refresh has the vassal files read anew. For strangers that is done once for
// all who ask meanwhile, and not more often than every refreshEvery: it may be
// ten thousand files.
func (s *Server) refresh(ctx, base context.Context, full bool) error {
	if full {
		ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
		return s.Backend.Refresh(ctx)
	}
	s.mu.Lock()
	look, first := s.looking, s.looking == nil
	if first {
		look = &shared{done: make(chan struct{})}
		s.looking = look
	}
	wait := time.Until(s.looked.Add(refreshEvery))
	s.mu.Unlock()
	if !first {
		select {
		case <-look.done:
			return look.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	lctx, cancel := context.WithTimeout(base, DefaultTimeout) // others wait for this one, even if its own client goes
	defer cancel()
	select {
	case <-time.After(wait):
	case <-base.Done():
	}
	s.mu.Lock()
	s.looking = nil // who comes from here on may have an edit that is not seen
	s.mu.Unlock()
	look.err = s.Backend.Refresh(lctx)
	s.mu.Lock()
	s.looked = time.Now()
	s.mu.Unlock()
	close(look.done)
	return look.err
}

// aboutApp are the codes whose messages come from what the vassal itself
// printed or did, and not from its file.
var aboutApp = []string{vassal.CodeExitedEarly, vassal.CodeImportError, vassal.CodeNoCallable, vassal.CodeOOM, vassal.CodeNotReady, vassal.CodeLastLines, vassal.CodeNotDone, vassal.CodeTimedOut}

// veil is p for a user of v who may not read the file that p is about: where, and
// not what, for a message may quote the file. Of files other than the vassal's own
// (emperor.ini, what is included) nobody knows here who may read them.
func veil(p vassal.Problem, v Vassal) vassal.Problem {
	if (v.Private || p.File != "" && p.File != v.File) && !slices.Contains(aboutApp, p.Code) {
		p.Message, p.Hint = "something is wrong here, and only who may read the file is told what", ""
	}
	return p
}

// veiled is v as its user may see it.
func veiled(v Vassal) Vassal {
	v.Problems = slices.Clone(v.Problems)
	for i := range v.Problems {
		v.Problems[i] = veil(v.Problems[i], v)
	}
	if v.Error != nil {
		p := veil(*v.Error, v)
		v.Error = &p
	}
	return v
}

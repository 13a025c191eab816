"""How well a network does: on what data, tested how, and beside which published figures."""

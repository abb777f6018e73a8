"""What the handlers write and the routes read. A real service has a database here."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

from .models import Invoice, ItemSales, Order, OrderEvent


class Ledger:
    """Invoices and events by order, and sales by item. Writing twice changes nothing: delivery is at least once."""

    def __init__(self) -> None:
        self.invoices: dict[str, Invoice] = {}
        self.events: dict[str, list[OrderEvent]] = {}
        self._counted: set[str] = set()
        self._sales: dict[str, ItemSales] = {}

    def add_invoice(self, invoice: Invoice) -> None:
        self.invoices.setdefault(invoice.order_id, invoice)

    def add_event(self, event: OrderEvent) -> None:
        events = self.events.setdefault(event.order_id, [])
        if event not in events:
            events.append(event)

    def count(self, order: Order) -> None:
        if order.order_id in self._counted:
            return
        self._counted.add(order.order_id)
        sales = self._sales.setdefault(order.item, ItemSales(item=order.item))
        sales.orders += 1
        sales.quantity += order.quantity
        sales.revenue += order.total

    def sales(self) -> list[ItemSales]:
        return sorted(self._sales.values(), key=lambda sales: sales.revenue, reverse=True)

    @property
    def revenue(self) -> Decimal:
        return sum((sales.revenue for sales in self._sales.values()), Decimal(0))


@lru_cache
def get_ledger() -> Ledger:
    """A FastAPI dependency, for routes and handlers alike."""
    return Ledger()

select *
from {{ target.schema }}.stg_payrol
